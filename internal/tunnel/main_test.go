package tunnel

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "12") // those that run in parallel wait for timers
	goleak.VerifyTestMain(m)
}
