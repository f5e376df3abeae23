//go:build race

package reloadtest

const raceEnabled = true
