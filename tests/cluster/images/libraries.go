package main

import (
	"debug/elf"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// multiarch is Debian's name for the architecture, under which its libraries are.
var multiarch = map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}

// libraries returns the paths of the loader and of the shared libraries that a program needs, and those need in turn;
// none for a static program. It reads the files and runs nothing.
func libraries(program string) ([]string, error) {
	found := map[string]bool{}
	todo := []string{program}
	for len(todo) > 0 {
		next := todo[0]
		todo = todo[1:]
		needed, loader, err := needs(next)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", next, err)
		}
		if loader != "" {
			found[loader] = true
		}
		for _, name := range needed {
			library, err := locate(name)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", next, err)
			}
			if !isLoader(name, found) && !found[library] {
				found[library] = true
				todo = append(todo, library)
			}
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// needs reads the names of libraries and the path of the loader out of a program or library.
func needs(file string) (names []string, loader string, err error) {
	object, err := elf.Open(file)
	if err != nil {
		return nil, "", err
	}
	defer object.Close()
	for _, segment := range object.Progs {
		if segment.Type == elf.PT_INTERP {
			path := make([]byte, segment.Filesz)
			if _, err := segment.ReadAt(path, 0); err != nil {
				return nil, "", err
			}
			loader = string(path[:max(len(path)-1, 0)])
		}
	}
	names, err = object.ImportedLibraries()
	return names, loader, err
}

// isLoader tells whether a library is the loader, which libraries name too and which stays where the program says.
func isLoader(name string, found map[string]bool) bool {
	for path := range found {
		if filepath.Base(path) == name {
			return true
		}
	}
	return false
}

func locate(name string) (string, error) {
	triple := multiarch[architecture]
	for _, directory := range []string{"/lib/" + triple, "/usr/lib/" + triple, "/lib64", "/usr/lib64", "/lib", "/usr/lib"} {
		path := filepath.Join(directory, name)
		if about, err := os.Stat(path); err == nil && about.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", fmt.Errorf("needs %s, which is in none of this system's directories for libraries", name)
}
