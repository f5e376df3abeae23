package integration_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/caddy-watchrtc/watchrtc-proxy"

// never says what a package may not import, itself and through others of this module.
// Both are folders below the module's own, "" that itself; what begins with a host is a
// package elsewhere, and stands for all below it. docs/architecture.md has the reasons.
var never = []struct {
	folders []string // one that ends in /... stands for all below it
	imports []string
}{
	{[]string{"internal/..."}, []string{""}},
	{[]string{"internal/tunnel", "internal/limits", "internal/handshake", "internal/http1", "internal/stats", "internal/adminapi", "internal/check"}, []string{"github.com/caddyserver"}},
	{[]string{"internal/tunnel"}, []string{"internal/relay"}},
	{[]string{"internal/relay"}, []string{"internal/tunnel"}},
	{[]string{""}, []string{"devrelay", "top"}},
	{[]string{"top"}, []string{"", "devrelay"}},
	{[]string{"internal/wstest"}, []string{"", "internal/...", "devrelay", "top"}},
}

// prometheus may be imported by metrics.go of the plugin, and by nothing else.
const prometheus = "github.com/prometheus"

// TestImports keeps the floor plan.
func TestImports(t *testing.T) {
	imports := parseImports(t)
	for _, rule := range never {
		for folder := range imports {
			if !slices.ContainsFunc(rule.folders, func(f string) bool { return within(folder, f) }) {
				continue
			}
			reached := reach(imports, folder)
			for imported, way := range reached {
				for _, forbidden := range rule.imports {
					if within(imported, forbidden) || outside(forbidden) && strings.HasPrefix(imported, forbidden) {
						t.Errorf("%q imports %s, by way of %s", folder, imported, way)
					}
				}
			}
		}
	}
}

// TestPrometheus: one file knows it.
func TestPrometheus(t *testing.T) {
	for _, file := range sources(t) {
		for _, imported := range importsOf(t, file) {
			if strings.HasPrefix(imported, prometheus) && file != "metrics.go" {
				t.Errorf("%s imports %s", file, imported)
			}
		}
	}
}

// sources returns the Go files of the module that are not tests, by their path in it.
func sources(t *testing.T) (files []string) {
	t.Helper()
	err := filepath.WalkDir("..", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel("..", name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		switch base := path.Base(rel); {
		case entry.IsDir() && rel != "." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "node_modules"):
			return fs.SkipDir
		case entry.IsDir() && (rel == "e2e" || rel == "bench" || rel == "tools"): // modules of their own
			return fs.SkipDir
		case !entry.IsDir() && strings.HasSuffix(base, ".go") && !strings.HasSuffix(base, "_test.go"):
			files = append(files, rel)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// importsOf returns what a file imports, packages of this module by their folder.
func importsOf(t *testing.T, file string) (imports []string) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", filepath.FromSlash(file)), nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range parsed.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if folder, ok := strings.CutPrefix(name, module); ok {
			name = strings.TrimPrefix(folder, "/")
		}
		imports = append(imports, name)
	}
	return imports
}

// parseImports returns the imports of each folder.
func parseImports(t *testing.T) map[string][]string {
	t.Helper()
	imports := make(map[string][]string)
	for _, file := range sources(t) {
		folder := path.Dir(file)
		if folder == "." {
			folder = ""
		}
		imports[folder] = append(imports[folder], importsOf(t, file)...)
	}
	for _, must := range []string{"", "internal/tunnel", "internal/wstest"} {
		if len(imports[must]) == 0 {
			t.Fatalf("no imports of %q: is this test in its place?", must)
		}
	}
	return imports
}

// reach returns all that a folder imports, each with the way by which. It goes on
// through packages of this module only.
func reach(imports map[string][]string, folder string) map[string]string {
	reached := make(map[string]string)
	var walk func(from, way string)
	walk = func(from, way string) {
		for _, imported := range imports[from] {
			if _, known := reached[imported]; known {
				continue
			}
			reached[imported] = way
			if _, own := imports[imported]; own {
				walk(imported, way+" → "+imported)
			}
		}
	}
	walk(folder, folder)
	return reached
}

// within reports whether a folder is the one of a rule, or below one that ends in /...
func within(folder, rule string) bool {
	if below, ok := strings.CutSuffix(rule, "/..."); ok {
		return strings.HasPrefix(folder, below+"/")
	}
	return folder == rule
}

// outside reports whether a rule names a package of another module.
func outside(rule string) bool {
	host, _, _ := strings.Cut(rule, "/")
	return strings.Contains(host, ".") && !strings.HasSuffix(rule, "/...")
}
