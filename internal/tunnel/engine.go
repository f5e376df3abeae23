package tunnel

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
)

// EngineVariable is the environment variable that turns the event loops off, and all
// that reaches into crypto/tls with them, when its value is "off".
const EngineVariable = "WATCHRTC_PROXY_EVENT_LOOPS"

// The engines that carry tunnels.
const (
	EventLoops = "event_loops"
	Goroutines = "goroutines"
)

// testedGo is the release of Go with which all tests have passed.
const testedGo = "go1.26"

// chosen is what the process found out about itself when it was first asked.
var chosen = sync.OnceValue(choose)

type choice struct {
	name, why string
	tls       bool // leg_tls.go may reach into crypto/tls
}

// Engine returns the engine of this process, EventLoops or Goroutines, and in words
// what an operator should know of the choice; why is empty where there is nothing
// out of the ordinary. The first call takes about a millisecond: it tests whether
// crypto/tls works as the event loops expect.
//
// With EventLoops, tunnels that no loop can carry still have goroutines.
func Engine() (name, why string) { return chosen().name, chosen().why }

func loopsWork() bool      { return chosen().name == EventLoops }
func reachesIntoTLS() bool { return chosen().tls }

func choose() choice {
	return chooseFor(os.Getenv(EngineVariable), runtime.Version(), testTLS)
}

func chooseFor(variable, version string, test func() error) choice {
	if strings.EqualFold(variable, "off") {
		return choice{name: Goroutines, why: EngineVariable + " is off"}
	}
	if err := test(); err != nil {
		return choice{name: Goroutines, why: fmt.Sprintf("crypto/tls of %s does not work as expected: %v", version, err)}
	}
	c := choice{name: EventLoops, tls: true}
	if !haveLoops {
		c.name, c.why = Goroutines, "there are event loops on Linux only"
	}
	if !tested(version) {
		c.why = strings.TrimPrefix(c.why+"; ", "; ") +
			version + " has not been tested yet: its crypto/tls has passed the test at the start"
	}
	return c
}

// tested reports whether version is a release that testedGo stands for, such as
// go1.26.8.
func tested(version string) bool {
	rest, ok := strings.CutPrefix(version, testedGo)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == ' ' || rest[0] == '-')
}
