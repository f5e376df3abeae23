package main

import (
	"context"
	"errors"
	"github.com/caddy-watchrtc/watchrtc-proxy/bench/internal/contestant"
	"strings"
)

type lossResult struct{ Contestant, Way, By string }

func (l lossResult) fault() string                                      { return "" }
func (l lossResult) leg() string                                        { return "" }
func (r *results) writeLoss(b *strings.Builder)                         {}
func (y *yard) loss(ctx context.Context, c contestant.Contestant) error { return nil }
func runVictim(string) error                                            { return errors.New("x") }
