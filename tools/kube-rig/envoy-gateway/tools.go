//go:build tools

// Package tools pins the version of Envoy Gateway that `cargo xtask bench kube` compares with.
package tools

import _ "github.com/envoyproxy/gateway/cmd/envoy-gateway"
