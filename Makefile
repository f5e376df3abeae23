# Shorthands. .ci/run has what a change must pass, section by section.
.PHONY: test race lint build run ci

test:  ; go test ./...
race:  ; .ci/run tests
lint:  ; .ci/run format vet lint
build: ; .ci/run build
run:   ; go run ./cmd/caddy run --config examples/quickstart/Caddyfile
ci:    ; .ci/run
