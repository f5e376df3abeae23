// Command vet checks what go vet does, from source: it compiles none of the dependencies,
// which is most of what go vet takes for a system that nothing has been built for.
package main

import (
	"golang.org/x/tools/go/analysis/multichecker"
	"golang.org/x/tools/go/analysis/suite/vet"
)

func main() { multichecker.Main(vet.Suite...) }
