// Token authentication by a callout: the token of each request is sent to an HTTP service, which answers 200 for a good
// one. What the service says in x-user goes on to the upstream.
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

func main() {}

func init() {
	wrapper.SetCtx("token-auth",
		wrapper.ParseConfig(parseConfig),
		wrapper.ProcessRequestHeaders(onRequestHeaders),
	)
}

type config struct {
	service wrapper.HttpClient
	path    string
	timeout uint32
	open    []string
}

func parseConfig(json gjson.Result, c *config) error {
	name, port := json.Get("service_name").String(), json.Get("service_port").Int()
	if name == "" {
		return errors.New("service_name is missing: the service that knows the tokens, as auth.default.svc.cluster.local")
	}
	if port == 0 {
		port = 80
	}
	c.service = wrapper.NewClusterClient(wrapper.FQDNCluster{FQDN: name, Port: port})
	c.path = "/verify"
	if p := json.Get("path").String(); p != "" {
		c.path = p
	}
	c.timeout = 500
	if t := json.Get("timeout").Uint(); t > 0 {
		c.timeout = uint32(t)
	}
	for _, prefix := range json.Get("open_paths").Array() {
		c.open = append(c.open, prefix.String())
	}
	return nil
}

func onRequestHeaders(ctx wrapper.HttpContext, c config) types.Action {
	ctx.DontReadRequestBody()
	// Only this plugin may say who the user is.
	_ = proxywasm.RemoveHttpRequestHeader("x-user")
	for _, prefix := range c.open {
		if strings.HasPrefix(ctx.Path(), prefix) {
			return types.ActionContinue
		}
	}
	value, _ := proxywasm.GetHttpRequestHeader("authorization")
	token, found := strings.CutPrefix(value, "Bearer ")
	if !found || token == "" {
		return refuse(http.StatusUnauthorized, "missing_token", "a bearer token is needed\n")
	}
	err := c.service.Get(c.path, [][2]string{{"authorization", value}}, onVerdict, c.timeout)
	if err != nil {
		proxywasm.LogErrorf("the token service cannot be asked: %v", err)
		return refuse(http.StatusServiceUnavailable, "unavailable", "the token service cannot be asked\n")
	}
	return types.ActionPause
}

func onVerdict(status int, headers http.Header, _ []byte) {
	switch {
	case status == http.StatusOK:
		if user := headers.Get("x-user"); user != "" {
			_ = proxywasm.ReplaceHttpRequestHeader("x-user", user)
		}
		_ = proxywasm.ResumeHttpRequest()
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		refuse(status, "bad_token", "the token is not good\n")
	default:
		proxywasm.LogErrorf("the token service answered %d", status)
		refuse(http.StatusServiceUnavailable, "unavailable", "the token service cannot be asked\n")
	}
}

func refuse(status int, detail, body string) types.Action {
	var headers [][2]string
	if status == http.StatusUnauthorized {
		headers = [][2]string{{"www-authenticate", "Bearer"}}
	}
	_ = proxywasm.SendHttpResponseWithDetail(uint32(status), "token_auth."+detail, headers, []byte(body), -1)
	return types.ActionPause
}
