//go:build tools

package main

import (
	// For its CustomResourceDefinitions.
	_ "istio.io/api/networking/v1"
	// The backend that the suite deploys.
	_ "sigs.k8s.io/gateway-api/conformance/echo-basic"
)
