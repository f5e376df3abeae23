package tunnel

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "8") // what runs in parallel waits most of the time
	goleak.VerifyTestMain(m)
}
