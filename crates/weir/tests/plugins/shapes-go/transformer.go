package main

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm"
	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm/types"
	"github.com/higress-group/wasm-go/pkg/wrapper"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
)

// A change of one field: remove, rename, replace or add, in headers, query or body.
type change struct{ operation, in, key, value string }

func changes(rules gjson.Result) (all []change, err error) {
	for _, r := range rules.Array() {
		c := change{r.Get("operate").String(), r.Get("in").String(), r.Get("key").String(), r.Get("value").String()}
		switch {
		case c.key == "":
			err = errors.New("a rule without key")
		case c.operation != "remove" && c.operation != "rename" && c.operation != "replace" && c.operation != "add":
			err = fmt.Errorf("operate: there is no %q", c.operation)
		case c.in != "headers" && c.in != "query" && c.in != "body":
			err = fmt.Errorf("in: there is no %q", c.in)
		}
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func with(all []change, in string) (found []change) {
	for _, c := range all {
		if c.in == in {
			found = append(found, c)
		}
	}
	return found
}

// fields applies changes to a map that is read and written as a whole.
func fields(of [][2]string, all []change) [][2]string {
	for _, c := range all {
		there := false
		kept := of[:0:0]
		for _, f := range of {
			if f[0] != c.key {
				kept = append(kept, f)
				continue
			}
			there = true
			switch c.operation {
			case "rename":
				kept = append(kept, [2]string{c.value, f[1]})
			case "replace":
				kept = append(kept, [2]string{f[0], c.value})
			case "add":
				kept = append(kept, f)
			}
		}
		if c.operation == "add" && !there {
			kept = append(kept, [2]string{c.key, c.value})
		}
		of = kept
	}
	return of
}

func body(of []byte, all []change) []byte {
	for _, c := range all {
		found := gjson.GetBytes(of, c.key)
		switch {
		case c.operation == "remove":
			of, _ = sjson.DeleteBytes(of, c.key)
		case c.operation == "rename" && found.Exists():
			of, _ = sjson.SetRawBytes(of, c.value, []byte(found.Raw))
			of, _ = sjson.DeleteBytes(of, c.key)
		case c.operation == "replace" && found.Exists(), c.operation == "add" && !found.Exists():
			of, _ = sjson.SetBytes(of, c.key, c.value)
		}
	}
	return of
}

func query(path string, all []change) string {
	before, text, _ := strings.Cut(path, "?")
	var pairs [][2]string
	for _, pair := range strings.Split(text, "&") {
		if name, value, _ := strings.Cut(pair, "="); name != "" {
			pairs = append(pairs, [2]string{name, value})
		}
	}
	var parts []string
	for _, p := range fields(pairs, all) {
		parts = append(parts, p[0]+"="+url.QueryEscape(p[1]))
	}
	if len(parts) == 0 {
		return before
	}
	return before + "?" + strings.Join(parts, "&")
}

func transformer(json gjson.Result) (shape, error) {
	request, err := changes(json.Get("request"))
	if err != nil {
		return shape{}, fmt.Errorf("request: %w", err)
	}
	response, err := changes(json.Get("response"))
	if err != nil {
		return shape{}, fmt.Errorf("response: %w", err)
	}
	return shape{
		requestHeaders: func(ctx wrapper.HttpContext) types.Action {
			hasBody := wrapper.HasRequestBody()
			headers, err := proxywasm.GetHttpRequestHeaders()
			if err != nil {
				return types.ActionContinue
			}
			headers = fields(headers, append(with(request, "headers"), change{operation: "remove", key: "content-length"}))
			headers = fields(headers, []change{{operation: "replace", key: ":path", value: query(ctx.Path(), with(request, "query"))}})
			_ = proxywasm.ReplaceHttpRequestHeaders(headers)
			if !hasBody {
				return types.ActionContinue
			}
			return types.HeaderStopIteration
		},
		requestBody: func(_ wrapper.HttpContext, b []byte) types.Action {
			_ = proxywasm.ReplaceHttpRequestBody(body(b, with(request, "body")))
			return types.ActionContinue
		},
		responseHeaders: func(wrapper.HttpContext) types.Action {
			headers, err := proxywasm.GetHttpResponseHeaders()
			if err != nil {
				return types.ActionContinue
			}
			_ = proxywasm.ReplaceHttpResponseHeaders(fields(headers, append(with(response, "headers"), change{operation: "remove", key: "content-length"})))
			return types.HeaderStopIteration
		},
		responseBody: func(_ wrapper.HttpContext, b []byte) types.Action {
			_ = proxywasm.ReplaceHttpResponseBody(body(b, with(response, "body")))
			return types.ActionContinue
		},
	}, nil
}
