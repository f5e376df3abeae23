package stats

import "strconv"

// OtherCode stands for close codes that are not registered: peers may use any.
const OtherCode = "other"

// registered are the close codes that mean something to everybody (IANA's WebSocket
// Close Code Number Registry).
var registered = []int{
	1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 1015,
	3000, 3003, 3008,
}

var codeLabels = labelsOf(registered)

func labelsOf(codes []int) map[int]string {
	labels := make(map[int]string, len(codes))
	for _, code := range codes {
		labels[code] = strconv.Itoa(code)
	}
	return labels
}

func codeLabel(code int) string {
	if label, ok := codeLabels[code]; ok {
		return label
	}
	return OtherCode
}

// closes returns all that a tunnel's end is counted by.
func closes(closers []string) (all []Close) {
	for _, by := range closers {
		all = append(all, Close{by, OtherCode})
		for _, code := range registered {
			all = append(all, Close{by, codeLabels[code]})
		}
	}
	return all
}

// class returns the class of a response's status. What is no valid status is as bad
// as a 5xx (RFC 9110, section 15).
func class(status int) string {
	switch {
	case 200 <= status && status < 300:
		return "2xx"
	case 300 <= status && status < 400:
		return "3xx"
	case 400 <= status && status < 500:
		return "4xx"
	}
	return "5xx"
}

// requests returns all that a request is counted by.
func requests(endpoints []string) (all []Request) {
	for _, endpoint := range endpoints {
		for _, class := range []string{"2xx", "3xx", "4xx", "5xx"} {
			all = append(all, Request{endpoint, class})
		}
	}
	return all
}
