// Package conformance runs the Gateway API's own conformance suite against a cluster with Weir in it. The claims are in
// options.yaml; `run` beside it prepares everything and gives the flags.
package conformance

import (
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/tests"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
	"sigs.k8s.io/yaml"
)

// TestConformance needs a cluster: KUBECONFIG, and the flag -conformance-options-file.
func TestConformance(t *testing.T) {
	if os.Getenv("KUBECONFIG") == "" {
		t.Skip("KUBECONFIG is not set; tests/conformance/run runs this against the test cluster")
	}
	conformance.RunConformance(t)
}

// TestEveryMeshTestOfTheSuiteIsClaimed needs no cluster. A test that a newer suite brings is either claimed or fails here, so
// that none is left out unseen.
func TestEveryMeshTestOfTheSuiteIsClaimed(t *testing.T) {
	claimed := options(t).SupportedFeatures
	known := map[features.FeatureName]bool{}
	for feature := range features.AllFeatures {
		known[feature.Name] = true
	}
	has := map[features.FeatureName]bool{}
	for _, feature := range claimed {
		if !known[feature] {
			t.Errorf("options.yaml claims %s, which this version of the Gateway API does not have", feature)
		}
		has[feature] = true
	}
	if has[features.SupportGateway] {
		t.Error("options.yaml claims Gateway, which a mesh is not")
	}
	for _, test := range tests.ConformanceTests {
		if !isForMeshes(test) {
			continue
		}
		for _, feature := range test.Features {
			if !has[feature] {
				t.Errorf("%s is not run, since options.yaml does not claim %s", test.ShortName, feature)
			}
		}
	}
}

// TestTheDocumentationListsEveryClaim compares options.yaml with what readers are told.
func TestTheDocumentationListsEveryClaim(t *testing.T) {
	text, err := os.ReadFile("../../docs/conformance/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, feature := range options(t).SupportedFeatures {
		if !strings.Contains(string(text), "`"+string(feature)+"`") {
			t.Errorf("docs/conformance/README.md does not list %s", feature)
		}
	}
}

func isForMeshes(test suite.ConformanceTest) bool {
	for _, feature := range test.Features {
		if feature == features.SupportMesh {
			return true
		}
	}
	return false
}

func options(t *testing.T) suite.ConfigurableOptions {
	t.Helper()
	text, err := os.ReadFile("options.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var options suite.ConfigurableOptions
	if err := yaml.UnmarshalStrict(text, &options); err != nil {
		t.Fatal(err)
	}
	return options
}
