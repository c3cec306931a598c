// Plugins in the shape of the most used ones of Higress, in one module: `shape` in the configuration says which.
package main

import (
	"fmt"

	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm/types"
	"github.com/higress-group/wasm-go/pkg/wrapper"
	"github.com/tidwall/gjson"
)

func main() {}

func init() {
	wrapper.SetCtx("shapes",
		wrapper.ParseConfig(parse),
		wrapper.ProcessRequestHeaders(onRequestHeaders),
		wrapper.ProcessRequestBody(onRequestBody),
		wrapper.ProcessResponseHeaders(onResponseHeaders),
		wrapper.ProcessResponseBody(onResponseBody),
		wrapper.ProcessStreamingResponseBody(onResponseChunk),
		wrapper.ProcessStreamDone(onDone),
	)
}

// shape is one plugin. What it leaves nil is not called, and bodies nobody handles are not read.
type shape struct {
	requestHeaders  func(wrapper.HttpContext) types.Action
	requestBody     func(wrapper.HttpContext, []byte) types.Action
	responseHeaders func(wrapper.HttpContext) types.Action
	responseBody    func(wrapper.HttpContext, []byte) types.Action
	responseChunk   func(wrapper.HttpContext, []byte, bool) []byte
	done            func(wrapper.HttpContext)
}

type config struct{ shape shape }

var shapes = map[string]func(gjson.Result) (shape, error){
	"key-auth":       keyAuth,
	"ext-auth":       extAuth,
	"rate-limit":     rateLimit,
	"transformer":    transformer,
	"response-cache": responseCache,
	"ai-proxy":       aiProxy,
	"mcp-server":     mcpServer,
}

func parse(json gjson.Result, c *config) (err error) {
	name := json.Get("shape").String()
	make, known := shapes[name]
	if !known {
		return fmt.Errorf("shape: there is no %q", name)
	}
	c.shape, err = make(json)
	return err
}

func onRequestHeaders(ctx wrapper.HttpContext, c config) types.Action {
	if c.shape.requestBody == nil {
		ctx.DontReadRequestBody()
	}
	if c.shape.responseBody == nil && c.shape.responseChunk == nil {
		ctx.DontReadResponseBody()
	}
	if c.shape.responseBody != nil {
		ctx.BufferResponseBody()
	}
	if c.shape.requestHeaders == nil {
		return types.ActionContinue
	}
	return c.shape.requestHeaders(ctx)
}

func onRequestBody(ctx wrapper.HttpContext, c config, body []byte) types.Action {
	if c.shape.requestBody == nil {
		return types.ActionContinue
	}
	return c.shape.requestBody(ctx, body)
}

func onResponseHeaders(ctx wrapper.HttpContext, c config) types.Action {
	if c.shape.responseHeaders == nil {
		return types.ActionContinue
	}
	return c.shape.responseHeaders(ctx)
}

func onResponseBody(ctx wrapper.HttpContext, c config, body []byte) types.Action {
	if c.shape.responseBody == nil {
		return types.ActionContinue
	}
	return c.shape.responseBody(ctx, body)
}

func onResponseChunk(ctx wrapper.HttpContext, c config, chunk []byte, last bool) []byte {
	if c.shape.responseChunk == nil {
		return chunk
	}
	return c.shape.responseChunk(ctx, chunk, last)
}

func onDone(ctx wrapper.HttpContext, c config) {
	if c.shape.done != nil {
		c.shape.done(ctx)
	}
}

// service reads service_name and service_port, as the plugins of Higress have them.
func service(json gjson.Result) (wrapper.FQDNCluster, error) {
	name, port := json.Get("service_name").String(), json.Get("service_port").Int()
	if name == "" || port == 0 {
		return wrapper.FQDNCluster{}, fmt.Errorf("service_name and service_port are needed: %s", json.Raw)
	}
	return wrapper.FQDNCluster{FQDN: name, Port: port}, nil
}
