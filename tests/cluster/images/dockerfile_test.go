package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const root = "../../.."

// The Dockerfile cannot be run where there is no container engine; what it says can be compared with what it means.

func TestEveryImageOfTheChartIsATargetWithTheSameUserAndProgram(t *testing.T) {
	version, err := workspaceVersion(root)
	if err != nil {
		t.Fatal(err)
	}
	targets := stages(t)
	for _, image := range catalogue(version) {
		if !strings.HasPrefix(image.reference, repository+"/") {
			continue
		}
		stage, there := targets[image.name]
		if !there {
			t.Errorf("the Dockerfile has no target %s", image.name)
			continue
		}
		program := "weir-" + image.name
		for _, want := range []string{
			"FROM base AS " + image.name,
			fmt.Sprintf("COPY --from=build /out/%s /usr/local/bin/%s", program, program),
			"USER " + image.user,
			fmt.Sprintf("ENTRYPOINT [%q]", image.entrypoint[0]),
		} {
			if !slices.Contains(stage, want) {
				t.Errorf("target %s lacks the line %s", image.name, want)
			}
		}
		for _, want := range []string{"-p " + program, "strip --strip-debug"} {
			if !strings.Contains(strings.Join(targets["build"], "\n"), want) {
				t.Errorf("the build stage lacks %s", want)
			}
		}
		if text := read(t, "Dockerfile"); !strings.Contains(text, "--target "+image.name) || !strings.Contains(text, image.reference) {
			t.Errorf("the Dockerfile's head does not say how to build %s", image.reference)
		}
	}
	if want := "ARG VERSION=" + version; !slices.Contains(targets["base"], want) {
		t.Errorf("the Dockerfile's version is not the workspace's: want the line %s", want)
	}
}

func TestNoImageRunsAsRootOrByAName(t *testing.T) {
	for _, image := range catalogue("0.0.0") {
		user, _, _ := strings.Cut(image.user, ":")
		if id, err := strconv.Atoi(user); err != nil || id == 0 {
			t.Errorf("%s runs as %q; runAsNonRoot needs a number that is not 0", image.name, image.user)
		}
	}
}

func TestTheBuildStageHasARustThatIsNewEnough(t *testing.T) {
	minimum := regexp.MustCompile(`(?m)^rust-version = "1\.(\d+)"`).FindStringSubmatch(read(t, "Cargo.toml"))
	image := regexp.MustCompile(`(?m)^FROM rust:1\.(\d+)-bookworm AS build$`).FindStringSubmatch(read(t, "Dockerfile"))
	if minimum == nil || image == nil {
		t.Fatal("Cargo.toml has no rust-version, or the build stage is not FROM rust:1.N-bookworm")
	}
	least, _ := strconv.Atoi(minimum[1])
	if has, _ := strconv.Atoi(image[1]); has < least {
		t.Errorf("the build stage has Rust 1.%d, the workspace needs 1.%d", has, least)
	}
}

func TestTheBuildContextHasEveryMemberOfTheWorkspace(t *testing.T) {
	members := regexp.MustCompile(`(?s)\nmembers = \[(.*?)\]`).FindStringSubmatch(read(t, "Cargo.toml"))
	if members == nil {
		t.Fatal("Cargo.toml lists no members")
	}
	ignored := strings.Split(read(t, ".dockerignore"), "\n")
	for _, member := range regexp.MustCompile(`"([^"]+)"`).FindAllStringSubmatch(members[1], -1) {
		if slices.Contains(ignored, member[1]) {
			t.Errorf(".dockerignore leaves out %s, which cargo reads", member[1])
		}
		if _, err := os.Stat(filepath.Join(root, member[1], "Cargo.toml")); err != nil {
			t.Error(err)
		}
	}
	for _, file := range []string{"Cargo.toml", "Cargo.lock", "charts", "examples", "proto"} {
		if slices.Contains(ignored, file) {
			t.Errorf(".dockerignore leaves out %s, which the build reads", file)
		}
	}
}

// stages are the lines of the Dockerfile's stages by name, with continued lines joined.
func stages(t *testing.T) map[string][]string {
	t.Helper()
	stages, name := map[string][]string{}, ""
	for line := range strings.SplitSeq(strings.ReplaceAll(read(t, "Dockerfile"), "\\\n", ""), "\n") {
		if strings.HasPrefix(line, "FROM ") {
			name = line[strings.LastIndex(line, " ")+1:]
		}
		if line != "" && !strings.HasPrefix(line, "#") {
			stages[name] = append(stages[name], line)
		}
	}
	return stages
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
