//go:build tools

// Package tools pins YurtHub, which the benchmark compares.
package tools

import _ "github.com/openyurtio/openyurt/cmd/yurthub/app"
