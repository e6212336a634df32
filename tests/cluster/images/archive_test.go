package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func example() (image, *tree) {
	files := newTree()
	files.text("/etc/motd", 0o644, "hello\n")
	files.link("/bin/sh", "busybox")
	files.directory("/tmp", 0o1777)
	return image{name: "example", reference: "example.org/example:1", user: "1:1", entrypoint: []string{"/bin/sh"}}, files
}

func TestEqualContentsGiveEqualArchives(t *testing.T) {
	directory := t.TempDir()
	var archives [2][]byte
	for i := range archives {
		file := filepath.Join(directory, "image.tar")
		image, files := example()
		if _, err := writeArchive(file, image, files); err != nil {
			t.Fatal(err)
		}
		archives[i], _ = os.ReadFile(file)
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two archives of the same contents differ")
	}
}

func TestAnArchiveLeadsFromItsIndexToItsLayer(t *testing.T) {
	file := filepath.Join(t.TempDir(), "image.tar")
	image, files := example()
	if _, err := writeArchive(file, image, files); err != nil {
		t.Fatal(err)
	}
	contents := unpack(t, file)

	type reference struct {
		Digest      string
		Size        int
		Annotations map[string]string
	}
	follow := func(to reference) []byte {
		found := contents["blobs/sha256/"+strings.TrimPrefix(to.Digest, "sha256:")]
		if len(found) != to.Size || "sha256:"+digest(found) != to.Digest {
			t.Fatalf("%+v is not in the archive", to)
		}
		return found
	}
	var index struct{ Manifests []reference }
	decode(t, contents["index.json"], &index)
	if got := index.Manifests[0].Annotations["io.containerd.image.name"]; got != image.reference {
		t.Errorf("the archive's image is called %q", got)
	}
	var manifest struct {
		Config reference
		Layers []reference
	}
	decode(t, follow(index.Manifests[0]), &manifest)
	var config struct {
		Config struct{ User string }
		Rootfs struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	decode(t, follow(manifest.Config), &config)
	if config.Config.User != "1:1" {
		t.Errorf("the image's user is %q", config.Config.User)
	}
	zip, err := gzip.NewReader(bytes.NewReader(follow(manifest.Layers[0])))
	if err != nil {
		t.Fatal(err)
	}
	layer, err := io.ReadAll(zip)
	if err != nil {
		t.Fatal(err)
	}
	if "sha256:"+digest(layer) != config.Rootfs.DiffIDs[0] {
		t.Error("the configuration names another layer")
	}
	var names []string
	for archive := tar.NewReader(bytes.NewReader(layer)); ; {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		names = append(names, header.Name)
	}
	if want := []string{"./", "bin/", "bin/sh", "etc/", "etc/motd", "tmp/"}; !slices.Equal(names, want) {
		t.Errorf("the layer has %v, want %v", names, want)
	}
}

func TestADynamicProgramBringsItsLoaderAndLibraries(t *testing.T) {
	needed, err := libraries("/bin/ls")
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(needed, " ")
	if !strings.Contains(all, "/libc.so.6") || !strings.Contains(all, "/ld-linux") || strings.Count(all, "/ld-linux") != 1 {
		t.Errorf("/bin/ls needs %v", needed)
	}
}

func TestAnImageIsChosenByEitherOfItsNames(t *testing.T) {
	for _, name := range []string{"proxy", "weir-proxy"} {
		chosen, err := choose(catalogue("1.2.3"), []string{name})
		if err != nil || len(chosen) != 1 || chosen[0].reference != "ghcr.io/weir-mesh/proxy:1.2.3" {
			t.Errorf("%s: %v, %v", name, chosen, err)
		}
	}
	if _, err := choose(catalogue("1.2.3"), []string{"cake"}); err == nil {
		t.Error("there is an image called cake")
	}
}

func unpack(t *testing.T, file string) map[string][]byte {
	t.Helper()
	opened, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	contents := map[string][]byte{}
	for archive := tar.NewReader(opened); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return contents
		}
		if err != nil {
			t.Fatal(err)
		}
		if contents[header.Name], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
}

func decode(t *testing.T, text []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}
