package main

import (
	"archive/tar"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// tree is the file system of an image, by absolute path. Everything in it belongs to root.
type tree struct {
	entries map[string]entry
}

type entry struct {
	kind byte
	mode int64
	// What a symbolic link names.
	target string
	// The file on this machine that a file is a copy of; empty: content.
	source  string
	content string
}

func newTree() *tree { return &tree{entries: map[string]entry{}} }

func (t *tree) file(name string, mode int64, source string) {
	t.put(name, entry{kind: tar.TypeReg, mode: mode, source: source})
}

func (t *tree) text(name string, mode int64, content string) {
	t.put(name, entry{kind: tar.TypeReg, mode: mode, content: content})
}

func (t *tree) link(name, target string) {
	t.put(name, entry{kind: tar.TypeSymlink, mode: 0o777, target: target})
}

func (t *tree) directory(name string, mode int64) {
	t.put(name, entry{kind: tar.TypeDir, mode: mode})
}

// put adds an entry, and the directories above it where they are missing.
func (t *tree) put(name string, what entry) {
	name = path.Clean(name)
	t.entries[name] = what
	for parent := path.Dir(name); parent != "/"; parent = path.Dir(parent) {
		if _, there := t.entries[parent]; !there {
			t.entries[parent] = entry{kind: tar.TypeDir, mode: 0o755}
		}
	}
}

// write writes the tree as a layer: sorted, so a directory comes before what is in it, and at the beginning of time.
func (t *tree) write(to io.Writer) error {
	archive := tar.NewWriter(to)
	// The root too: left out, it gets the mode that the runtime's umask gives.
	if err := (entry{kind: tar.TypeDir, mode: 0o755}).write(archive, "."); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(t.entries)) {
		if err := t.entries[name].write(archive, strings.TrimPrefix(name, "/")); err != nil {
			return err
		}
	}
	return archive.Close()
}

func (e entry) write(archive *tar.Writer, name string) error {
	header := tar.Header{Typeflag: e.kind, Name: name, Mode: e.mode, Linkname: e.target, ModTime: time.Unix(0, 0)}
	switch {
	case e.kind == tar.TypeDir:
		header.Name += "/"
	case e.source != "":
		return e.copy(archive, header)
	default:
		header.Size = int64(len(e.content))
	}
	if err := archive.WriteHeader(&header); err != nil {
		return err
	}
	_, err := io.WriteString(archive, e.content)
	return err
}

func (e entry) copy(archive *tar.Writer, header tar.Header) error {
	source, err := os.Open(e.source)
	if err != nil {
		return err
	}
	defer source.Close()
	about, err := source.Stat()
	if err != nil {
		return err
	}
	header.Size = about.Size()
	if err := archive.WriteHeader(&header); err != nil {
		return err
	}
	_, err = io.Copy(archive, source)
	return err
}
