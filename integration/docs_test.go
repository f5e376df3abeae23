package integration_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestReliabilityTable: docs/reliability.md lists each scenario's test, no other, and
// counts right.
func TestReliabilityTable(t *testing.T) {
	page, err := os.ReadFile("../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := make(map[string]bool)
	rows := make(map[string]int)
	for _, row := range regexp.MustCompile("(?m)^\\| .* \\| `Test(Go|Caddy|Nginx)(\\w+)` \\|$").FindAllSubmatch(page, -1) {
		listed["Test"+string(row[1])+string(row[2])] = true
		rows[string(row[1])]++
	}
	var tests []string
	for suite, file := range map[string]string{"Go": "go_test.go", "Caddy": "caddy_test.go", "Nginx": "nginx_test.go"} {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(source, -1) {
			tests = append(tests, string(match[1]))
			if !listed[string(match[1])] {
				t.Errorf("%s is not in docs/reliability.md", match[1])
			}
		}
		count := regexp.MustCompile(`(?m)^\| ` + suite + ` \| [^|]*\| ` + strconv.Itoa(rows[suite]) + ` \|`)
		if !count.Match(page) {
			t.Errorf("docs/reliability.md has %d rows for %s and counts otherwise", rows[suite], suite)
		}
	}
	for name := range listed {
		if !slices.Contains(tests, name) {
			t.Errorf("docs/reliability.md lists %s, which is no test", name)
		}
	}
}

// TestNamedTests: the tests that these pages name are there.
func TestNamedTests(t *testing.T) {
	tests := make(map[string]bool)
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir("..", func(file string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(file, "_test.go") {
			return err
		}
		source, err := os.ReadFile(file)
		for _, match := range function.FindAllSubmatch(source, -1) {
			tests[string(match[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"SECURITY.md", "docs/reliability.md"} {
		page, err := os.ReadFile("../" + name)
		if err != nil {
			t.Fatal(err)
		}
		named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllSubmatch(page, -1)
		if len(named) == 0 {
			t.Errorf("%s names no tests", name)
		}
		for _, match := range named {
			if !tests[string(match[1])] {
				t.Errorf("%s names %s, which is no test", name, match[1])
			}
		}
	}
}
