//go:build tools

// Package tools pins Consul, whose services the tests follow.
package tools

import _ "github.com/hashicorp/consul"
