// Command images writes the container images of the test cluster from programs that are already built.
//
// [catalogue.go] says what is in each image, [rootfs.go] makes the one layer of it, [libraries.go] finds what a
// dynamically linked program needs, and [archive.go] writes what a container runtime imports. Nothing in an image
// depends on the time, the user or the directory in which it was made.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

// run writes the images that the arguments name and prints one line for each.
func run(arguments []string) error {
	var from sources
	flags := flag.NewFlagSet("images", flag.ContinueOnError)
	flags.StringVar(&from.tree, "tree", ".", "the root of Weir's source tree")
	binDir := flags.String("bin-dir", "", "where Weir's programs are (default: target/quick of the tree)")
	out := flags.String("out", "", "where the archives go (default: target/images of the tree)")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	from.binDir = orDefault(*binDir, filepath.Join(from.tree, "target/quick"))
	directory := orDefault(*out, filepath.Join(from.tree, "target/images"))

	version, err := workspaceVersion(from.tree)
	if err != nil {
		return err
	}
	wanted, err := choose(catalogue(version), flags.Args())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return err
	}
	if from.work, err = os.MkdirTemp("", "weir-images-"); err != nil {
		return err
	}
	defer os.RemoveAll(from.work)
	for _, image := range wanted {
		if err := write(image, from, directory); err != nil {
			return fmt.Errorf("image %s: %w", image.name, err)
		}
	}
	return nil
}

// write makes one image. The archive gets its name when it is complete, so that a file that is there is right.
func write(image image, from sources, directory string) error {
	root := newTree()
	if err := image.fill(root, from); err != nil {
		return err
	}
	file := filepath.Join(directory, image.name+".tar")
	size, err := writeArchive(file+".partial", image, root)
	if err != nil {
		os.Remove(file + ".partial")
		return err
	}
	if err := os.Rename(file+".partial", file); err != nil {
		return err
	}
	fmt.Printf("%s  %s  %.1f MB (%.1f MB compressed)\n", file, image.reference, megabytes(size.unpacked), megabytes(size.compressed))
	return nil
}

func megabytes(bytes int64) float64 { return float64(bytes) / 1e6 }

// choose returns the images with these names, or all of them. `weir-proxy` is as good as `proxy`.
func choose(all []image, names []string) ([]image, error) {
	if len(names) == 0 {
		return all, nil
	}
	var chosen []image
	for _, name := range names {
		found := false
		for _, image := range all {
			if image.name == strings.TrimPrefix(name, "weir-") {
				chosen, found = append(chosen, image), true
			}
		}
		if !found {
			var known []string
			for _, image := range all {
				known = append(known, image.name)
			}
			return nil, fmt.Errorf("there is no image %q; there are %s", name, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}

func orDefault(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
