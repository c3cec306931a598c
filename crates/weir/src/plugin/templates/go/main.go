// Greets in a header, and keeps some paths closed.
package main

import (
	"errors"
	"net/http"
	"strings"

	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm"
	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm/types"
	"github.com/higress-group/wasm-go/pkg/log"
	"github.com/higress-group/wasm-go/pkg/wrapper"
	"github.com/tidwall/gjson"
)

func main() {}

func init() {
	wrapper.SetCtx("my-plugin",
		wrapper.ParseConfig(parseConfig),
		wrapper.ProcessRequestHeaders(onRequestHeaders),
		wrapper.ProcessResponseHeaders(onResponseHeaders),
	)
}

type config struct {
	greeting string
	closed   []string
}

// parseConfig reads the plugin's configuration. An error is shown when it is loaded, and the old configuration stays.
func parseConfig(json gjson.Result, c *config) error {
	c.greeting = json.Get("greeting").String()
	if c.greeting == "" {
		return errors.New("greeting is missing: a text for the header x-greeting")
	}
	for _, prefix := range json.Get("closed").Array() {
		c.closed = append(c.closed, prefix.String())
	}
	return nil
}

func onRequestHeaders(ctx wrapper.HttpContext, c config) types.Action {
	ctx.DontReadRequestBody()
	for _, prefix := range c.closed {
		if strings.HasPrefix(ctx.Path(), prefix) {
			log.Infof("%s is closed", ctx.Path())
			_ = proxywasm.SendHttpResponseWithDetail(http.StatusForbidden, "my-plugin.closed", nil, []byte("closed\n"), -1)
			return types.ActionPause
		}
	}
	_ = proxywasm.ReplaceHttpRequestHeader("x-greeting", c.greeting)
	return types.ActionContinue
}

func onResponseHeaders(ctx wrapper.HttpContext, c config) types.Action {
	_ = proxywasm.ReplaceHttpResponseHeader("x-greeting", c.greeting)
	return types.ActionContinue
}
