// Package integration holds the tests of the module in a running Caddy, from outside:
// they configure it as an operator does, speak to it as clients and relays do, and use
// nothing of its inside. harness_*_test.go is what they have in common: a proxy, clients
// and relays.
//
// The scenarios in go_test.go, caddy_test.go and nginx_test.go are those of test suites
// for other reverse proxies: net/http/httputil's, Caddy's own for reverse_proxy, and
// nginx-tests. The tests are this project's own. docs/reliability.md lists them all,
// and says where and why this proxy does something else on purpose.
package integration
