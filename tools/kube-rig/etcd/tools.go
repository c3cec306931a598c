//go:build tools

// Package tools pins etcd. The API server serves streaming lists only where
// etcd answers requests for the progress of watches: 3.4.31, 3.5.13 or newer.
package tools

import _ "go.etcd.io/etcd/server/v3"
