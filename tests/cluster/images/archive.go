package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"time"
)

// Sizes of an image in bytes: on a node, and on the way there.
type size struct{ unpacked, compressed int64 }

// writeArchive writes an image as an OCI image layout in a tar file, the way `ctr images import` and `docker load` read it.
// https://github.com/opencontainers/image-spec/blob/main/image-layout.md
func writeArchive(file string, image image, root *tree) (size, error) {
	layer, err := compress(root)
	if err != nil {
		return size{}, err
	}
	config := encode(map[string]any{
		"architecture": architecture,
		"os":           "linux",
		"created":      time.Unix(0, 0).UTC().Format(time.RFC3339),
		"config": map[string]any{
			"User":       image.user,
			"Entrypoint": image.entrypoint,
			"WorkingDir": "/",
			"Env":        []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
		},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{layer.unpackedDigest}},
		"history": []any{map[string]any{"created": time.Unix(0, 0).UTC().Format(time.RFC3339), "created_by": "tests/cluster/images/build"}},
	})
	manifest := encode(map[string]any{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.manifest.v1+json",
		"config":        descriptor("application/vnd.oci.image.config.v1+json", config),
		"layers":        []any{descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer.bytes)},
	})
	named := descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
	named["annotations"] = map[string]string{
		"io.containerd.image.name":          image.reference,
		"org.opencontainers.image.ref.name": image.reference,
	}
	index := encode(map[string]any{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.index.v1+json",
		"manifests":     []any{named},
	})
	return layer.size, writeFiles(file, []archived{
		{"oci-layout", encode(map[string]string{"imageLayoutVersion": "1.0.0"})},
		{"index.json", index},
		{blob(config), config},
		{blob(manifest), manifest},
		{blob(layer.bytes), layer.bytes},
	})
}

type layer struct {
	bytes          []byte
	unpackedDigest string
	size           size
}

// compress packs the tree. An image is some tens of megabytes at most, so it may stay in memory.
func compress(root *tree) (layer, error) {
	var packed bytes.Buffer
	unpacked := sha256.New()
	zip := gzip.NewWriter(&packed)
	var counted counter
	if err := root.write(io.MultiWriter(zip, unpacked, &counted)); err != nil {
		return layer{}, err
	}
	if err := zip.Close(); err != nil {
		return layer{}, err
	}
	return layer{
		bytes:          packed.Bytes(),
		unpackedDigest: "sha256:" + hex.EncodeToString(unpacked.Sum(nil)),
		size:           size{unpacked: int64(counted), compressed: int64(packed.Len())},
	}, nil
}

type counter int64

func (c *counter) Write(bytes []byte) (int, error) {
	*c += counter(len(bytes))
	return len(bytes), nil
}

type archived struct {
	name  string
	bytes []byte
}

func writeFiles(file string, files []archived) error {
	to, err := os.Create(file)
	if err != nil {
		return err
	}
	defer to.Close()
	archive := tar.NewWriter(to)
	for _, each := range files {
		header := tar.Header{Typeflag: tar.TypeReg, Name: each.name, Mode: 0o644, Size: int64(len(each.bytes)), ModTime: time.Unix(0, 0)}
		if err := archive.WriteHeader(&header); err != nil {
			return err
		}
		if _, err := archive.Write(each.bytes); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return to.Close()
}

func digest(bytes []byte) string {
	sum := sha256.Sum256(bytes)
	return hex.EncodeToString(sum[:])
}

func blob(bytes []byte) string { return "blobs/sha256/" + digest(bytes) }

func descriptor(mediaType string, bytes []byte) map[string]any {
	return map[string]any{"mediaType": mediaType, "digest": "sha256:" + digest(bytes), "size": len(bytes)}
}

// encode writes JSON; Go sorts the keys of maps, so equal values give equal bytes.
func encode(value any) []byte {
	bytes, err := json.Marshal(value)
	if err != nil {
		// Only strings, numbers, lists and maps of them come here.
		panic(err)
	}
	return bytes
}
