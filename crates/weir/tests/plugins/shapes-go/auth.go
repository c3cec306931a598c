package main

import (
	"errors"
	"net/http"
	"strings"

	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm"
	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm/types"
	"github.com/higress-group/wasm-go/pkg/wrapper"
	"github.com/tidwall/gjson"
)

// keyAuth finds the consumer of a key that stands in a header or in the query.
func keyAuth(json gjson.Result) (shape, error) {
	consumers := map[string]string{}
	for _, c := range json.Get("consumers").Array() {
		credential := c.Get("credential").String()
		if credential == "" {
			return shape{}, errors.New("consumers: an entry without credential")
		}
		consumers[credential] = c.Get("name").String()
	}
	var keys []string
	for _, k := range json.Get("keys").Array() {
		keys = append(keys, k.String())
	}
	if len(consumers) == 0 || len(keys) == 0 {
		return shape{}, errors.New("consumers and keys are needed")
	}
	inQuery := json.Get("in_query").Bool()
	refuse := func(detail string) types.Action {
		headers := [][2]string{{"www-authenticate", "Key realm=shapes"}}
		_ = proxywasm.SendHttpResponseWithDetail(http.StatusUnauthorized, "key-auth."+detail, headers, []byte(detail+"\n"), -1)
		return types.ActionPause
	}
	return shape{requestHeaders: func(ctx wrapper.HttpContext) types.Action {
		_ = proxywasm.RemoveHttpRequestHeader("x-mse-consumer")
		var key string
		for _, name := range keys {
			if value, err := proxywasm.GetHttpRequestHeader(name); err == nil && value != "" {
				key = value
			} else if inQuery {
				key = queryValue(ctx.Path(), name)
			}
			if key != "" {
				break
			}
		}
		if key == "" {
			return refuse("no_key")
		}
		name, known := consumers[key]
		if !known {
			return refuse("unknown_key")
		}
		_ = proxywasm.AddHttpRequestHeader("x-mse-consumer", name)
		return types.ActionContinue
	}}, nil
}

func queryValue(path, name string) string {
	_, query, _ := strings.Cut(path, "?")
	for _, pair := range strings.Split(query, "&") {
		if n, value, _ := strings.Cut(pair, "="); n == name {
			return value
		}
	}
	return ""
}

// extAuth asks a service about each request, with its body where with_body says so.
func extAuth(json gjson.Result) (shape, error) {
	at, err := service(json)
	if err != nil {
		return shape{}, err
	}
	client := wrapper.NewClusterClient(at)
	prefix, open, timeout := json.Get("path_prefix").String(), json.Get("failure_mode_allow").Bool(), uint32(json.Get("timeout").Uint())
	var upstreamHeaders []string
	for _, name := range json.Get("allowed_upstream_headers").Array() {
		upstreamHeaders = append(upstreamHeaders, name.String())
	}
	ask := func(ctx wrapper.HttpContext, body []byte) error {
		authorization, _ := proxywasm.GetHttpRequestHeader("authorization")
		headers := [][2]string{{"authorization", authorization}, {"x-forwarded-method", ctx.Method()}, {"x-forwarded-host", ctx.Host()}}
		verdict := func(status int, got http.Header, answer []byte) {
			switch {
			case status == http.StatusOK:
				for _, name := range upstreamHeaders {
					if value := got.Get(name); value != "" {
						_ = proxywasm.ReplaceHttpRequestHeader(name, value)
					}
				}
				_ = proxywasm.ResumeHttpRequest()
			case status >= 500 && open:
				_ = proxywasm.ReplaceHttpRequestHeader("x-envoy-auth-failure-mode-allowed", "true")
				_ = proxywasm.ResumeHttpRequest()
			case status >= 500:
				_ = proxywasm.SendHttpResponseWithDetail(http.StatusForbidden, "ext-auth.unavailable", nil, []byte("not available\n"), -1)
			default:
				_ = proxywasm.SendHttpResponseWithDetail(uint32(status), "ext-auth.refused", nil, answer, -1)
			}
		}
		return client.Post(prefix+ctx.Path(), headers, body, verdict, timeout)
	}
	failed := func(err error) types.Action {
		proxywasm.LogErrorf("ext-auth cannot be asked: %v", err)
		_ = proxywasm.SendHttpResponseWithDetail(http.StatusForbidden, "ext-auth.unavailable", nil, nil, -1)
		return types.ActionPause
	}
	if json.Get("with_body").Bool() {
		return shape{
			requestHeaders: func(ctx wrapper.HttpContext) types.Action {
				if !wrapper.HasRequestBody() {
					if err := ask(ctx, nil); err != nil {
						return failed(err)
					}
					return types.HeaderStopAllIterationAndWatermark
				}
				return types.HeaderStopIteration
			},
			requestBody: func(ctx wrapper.HttpContext, body []byte) types.Action {
				if err := ask(ctx, body); err != nil {
					return failed(err)
				}
				return types.DataStopIterationAndBuffer
			},
		}, nil
	}
	return shape{requestHeaders: func(ctx wrapper.HttpContext) types.Action {
		if err := ask(ctx, nil); err != nil {
			return failed(err)
		}
		return types.HeaderStopAllIterationAndWatermark
	}}, nil
}
