package top

import "time"

// model is what the view shows. It knows neither the terminal nor the admin API.
type model struct {
	charset charset
	report  *report // the latest
	last    *sample // what the next is compared with
	begun   *totals // those of when the view began
	past    [figures][]rate
	gone    error     // why the admin API does not respond; nil if it does
	now     time.Time // of the latest poll, successful or not
	paused  bool
}

// What has a history.
const (
	tunnels = iota
	inFlight
	handshakes
	failures
	closings
	framesToRelay
	framesToClient
	bytesToRelay
	bytesToClient
	figures // how many there are
)

// historyLength is how many polls are kept: 10 minutes, and no sparkline is longer.
const historyLength = 300

// update takes what a poll has brought at a time.
func (m *model) update(address string, s *sample, err error, now time.Time) {
	m.now = now
	if err != nil {
		m.gone = err
		m.remember(nothing)
		return
	}
	m.gone = nil
	switch {
	case m.begun == nil:
		m.begun = s.totals
	case s.isOther(m.last):
		m.begun = new(totals)
	}
	m.report = newReport(address, m.last, s)
	m.last = s
	r := m.report.Rates
	m.remember([figures]rate{
		tunnels: rate(s.status.Tunnels), inFlight: rate(s.status.Handshakes),
		handshakes: r.Opened + r.Failed, failures: r.Failed, closings: r.Closed,
		framesToRelay: r.FramesToRelay, framesToClient: r.FramesToClient,
		bytesToRelay: r.BytesToRelay, bytesToClient: r.BytesToClient,
	})
}

// nothing is what there is to remember of a poll that has failed.
var nothing = func() (all [figures]rate) {
	for i := range all {
		all[i] = unknown
	}
	return all
}()

func (m *model) remember(now [figures]rate) {
	for i, value := range now {
		m.past[i] = append(m.past[i], value)
		if extra := len(m.past[i]) - historyLength; extra > 0 {
			m.past[i] = append(m.past[i][:0], m.past[i][extra:]...)
		}
	}
}

// latest is a figure of the last successful poll.
func (m *model) latest(figure int) rate {
	past := m.past[figure]
	if len(past) == 0 {
		return unknown
	}
	return past[len(past)-1]
}
