package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// repository is where the chart expects Weir's images.
const repository = "ghcr.io/weir-mesh"

// An image, as a Dockerfile would say it.
type image struct {
	name       string
	reference  string
	user       string
	entrypoint []string
	fill       func(*tree, sources) error
}

// Where the contents of images come from.
type sources struct {
	// The root of Weir's source tree.
	tree string
	// Weir's programs.
	binDir string
	// A directory for files that are only needed until the images are written.
	work string
}

// catalogue lists the images for this version of Weir. Users and entry points of Weir's own are those of the Dockerfile;
// a test compares them.
func catalogue(version string) []image {
	return []image{
		weir("proxy", version, "15400:15400"),
		weir("control-plane", version, "65532:65532"),
		weir("injector", version, "65532:65532"),
		{
			name:       "test-app",
			reference:  "docker.io/library/weir-test-app:dev",
			user:       "1000:1000",
			entrypoint: []string{"/usr/local/bin/weir-test-app"},
			fill:       testApp,
		},
		{
			name: "echo",
			// The name in the manifests of the Gateway API's conformance suite.
			reference:  "registry.k8s.io/gateway-api/echo-advanced:v1.5.1",
			user:       "1338:1338",
			entrypoint: []string{"/usr/local/bin/server"},
			fill:       echo,
		},
	}
}

// weir is one of Weir's own images: the program on a base like distroless' `cc`.
func weir(part, version, user string) image {
	program := "/usr/local/bin/weir-" + part
	return image{
		name:       part,
		reference:  fmt.Sprintf("%s/%s:%s", repository, part, version),
		user:       user,
		entrypoint: []string{program},
		fill: func(root *tree, from sources) error {
			base(root)
			return addProgram(root, from, "weir-"+part, program)
		},
	}
}

// testApp is the tests' own application with a shell beside it, for exec probes and for looking around.
func testApp(root *tree, from sources) error {
	base(root)
	const busybox = "/bin/busybox"
	if linked, err := libraries(busybox); err != nil || len(linked) > 0 {
		return fmt.Errorf("%s is missing or needs shared libraries: apt-get install busybox-static", busybox)
	}
	root.file(busybox, 0o755, busybox)
	applets, err := exec.Command(busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("%s --list: %w", busybox, err)
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet != "busybox" {
			root.link("/bin/"+applet, "busybox")
		}
	}
	return addProgram(root, from, "weir-test-app", "/usr/local/bin/weir-test-app")
}

// echo is the application of the Gateway API's conformance suite, built from Istio's module.
func echo(root *tree, from sources) error {
	base(root)
	built := exec.Command(filepath.Join(from.tree, "tests/cluster/images/echo/build"))
	built.Stderr = os.Stderr
	output, err := built.Output()
	if err != nil {
		return fmt.Errorf("%s: %w", built.Path, err)
	}
	directory := strings.TrimSpace(string(output))
	for _, program := range []string{"server", "client"} {
		root.file("/usr/local/bin/"+program, 0o755, filepath.Join(directory, program))
	}
	// The suite's manifests name these two for the TLS port. The key is one that Istio publishes for its tests.
	root.file("/cert.crt", 0o644, filepath.Join(directory, "cert-chain.pem"))
	root.file("/cert.key", 0o644, filepath.Join(directory, "key.pem"))
	return nil
}

// base is what programs find in distroless images and look for: users, the order of name lookups, a place for files.
func base(root *tree) {
	root.text("/etc/passwd", 0o644, "root:x:0:0:root:/root:/sbin/nologin\n"+
		"nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n"+
		"nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n")
	root.text("/etc/group", 0o644, "root:x:0:\nnobody:x:65534:\nnonroot:x:65532:\n")
	root.text("/etc/nsswitch.conf", 0o644, "hosts: files dns\n")
	root.directory("/tmp", 0o1777)
}

// addProgram puts one of Weir's programs into an image, stripped of its debug information, with the libraries it needs.
func addProgram(root *tree, from sources, name, destination string) error {
	program := filepath.Join(from.binDir, name)
	if _, err := os.Stat(program); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s is not there; build it with: cargo build --profile quick --workspace --bins", program)
	}
	stripped := filepath.Join(from.work, name)
	// Names of functions stay, for backtraces.
	strip := exec.Command("strip", "--strip-debug", "-o", stripped, program)
	if output, err := strip.CombinedOutput(); err != nil {
		return fmt.Errorf("strip %s: %w: %s", program, err, output)
	}
	root.file(destination, 0o755, stripped)
	needed, err := libraries(program)
	if err != nil {
		return err
	}
	for _, library := range needed {
		root.file(library, 0o755, library)
	}
	return nil
}

var versionLine = regexp.MustCompile(`(?ms)^\[workspace\.package\]$.*?^version = "([^"]+)"$`)

// workspaceVersion is the version that Weir's crates share; images are tagged with it.
func workspaceVersion(tree string) (string, error) {
	file := filepath.Join(tree, "Cargo.toml")
	manifest, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	match := versionLine.FindSubmatch(manifest)
	if match == nil {
		return "", fmt.Errorf("%s has no version under [workspace.package]", file)
	}
	return string(match[1]), nil
}

// architecture is what images are made for: that of the machine that built the programs.
const architecture = runtime.GOARCH
