//go:build tools

// Package tools pins the Go programs that the tests run against Weir.
package tools

import _ "github.com/summerwind/h2spec/cmd/h2spec"
