// Authentication by a key: the key of each request, from a header or the query, names a consumer. The routes of a rule may allow some
// consumers only. The shape, and the fields of the configuration, are those of Higress' key-auth.
package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"

	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm"
	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm/types"
	"github.com/higress-group/wasm-go/pkg/wrapper"
	"github.com/tidwall/gjson"
)

func main() {}

func init() {
	wrapper.SetCtx("key-auth",
		wrapper.ParseOverrideConfig(parseGlobal, parseRule),
		wrapper.ProcessRequestHeaders(onRequestHeaders),
	)
}

type config struct {
	// Consumer by key.
	consumers map[string]string
	keys      []string
	inHeader  bool
	inQuery   bool
	// Of a rule; nil allows every consumer.
	allow []string
}

func parseGlobal(json gjson.Result, c *config) error {
	c.consumers = map[string]string{}
	for _, consumer := range json.Get("consumers").Array() {
		name, credential := consumer.Get("name").String(), consumer.Get("credential").String()
		if name == "" || credential == "" {
			return errors.New("a consumer needs a name and a credential")
		}
		if known, double := c.consumers[credential]; double {
			return fmt.Errorf("the consumers %s and %s have the same credential", known, name)
		}
		c.consumers[credential] = name
	}
	for _, key := range json.Get("keys").Array() {
		c.keys = append(c.keys, key.String())
	}
	c.inHeader, c.inQuery = json.Get("in_header").Bool(), json.Get("in_query").Bool()
	if len(c.consumers) == 0 || len(c.keys) == 0 || !c.inHeader && !c.inQuery {
		return errors.New("consumers, keys, and one of in_header and in_query are needed")
	}
	return nil
}

func parseRule(json gjson.Result, global config, c *config) error {
	*c = global
	for _, name := range json.Get("allow").Array() {
		c.allow = append(c.allow, name.String())
	}
	return nil
}

func onRequestHeaders(ctx wrapper.HttpContext, c config) types.Action {
	ctx.DontReadRequestBody()
	key := find(ctx, c)
	if key == "" {
		return refuse(http.StatusUnauthorized, "no_key", "Request denied by Key Auth check. No API key found in request.")
	}
	consumer, known := c.consumers[key]
	if !known {
		return refuse(http.StatusForbidden, "unknown_key", "Request denied by Key Auth check. Invalid API key.")
	}
	if c.allow != nil && !slices.Contains(c.allow, consumer) {
		return refuse(http.StatusForbidden, "not_allowed", "Request denied by Key Auth check. Unauthorized consumer.")
	}
	_ = proxywasm.ReplaceHttpRequestHeader("x-mse-consumer", consumer)
	return types.ActionContinue
}

func find(ctx wrapper.HttpContext, c config) string {
	for _, name := range c.keys {
		if c.inHeader {
			if key, _ := proxywasm.GetHttpRequestHeader(name); key != "" {
				return key
			}
		}
		if c.inQuery {
			if target, err := url.ParseRequestURI(ctx.Path()); err == nil && target.Query().Get(name) != "" {
				return target.Query().Get(name)
			}
		}
	}
	return ""
}

func refuse(status uint32, detail, body string) types.Action {
	headers := [][2]string{{"www-authenticate", "Key realm=weir"}}
	_ = proxywasm.SendHttpResponseWithDetail(status, "key_auth."+detail, headers, []byte(body), -1)
	return types.ActionContinue
}
