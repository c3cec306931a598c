// A request blacklist kept in Redis: by client address and by path. An entry is a key, its value is the reason, its
// expiry is Redis' own:
//
//	SET blacklist:ip:203.0.113.7 "abuse" EX 3600
//	SET blacklist:path:/admin "closed"
package main

import (
	"net"
	"net/http"
	"strings"

	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm"
	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm/types"
	"github.com/higress-group/wasm-go/pkg/wrapper"
	"github.com/tidwall/gjson"
	"github.com/tidwall/resp"
)

func main() {}

func init() {
	wrapper.SetCtx("blacklist-redis",
		wrapper.ParseConfig(parseConfig),
		wrapper.ProcessRequestHeaders(onRequestHeaders),
	)
}

type config struct {
	redis     wrapper.RedisClient
	prefix    string
	status    uint32
	failOpen  bool
	ipHeader  string
	foldCases bool
}

func parseConfig(json gjson.Result, c *config) error {
	redis := json.Get("redis")
	service, port := redis.Get("service_name").String(), redis.Get("service_port").Int()
	if service == "" {
		service = "redis.static"
	}
	if port == 0 {
		port = 6379
	}
	timeout := redis.Get("timeout").Int()
	if timeout == 0 {
		timeout = 1000
	}
	c.prefix = "blacklist"
	if p := json.Get("key_prefix").String(); p != "" {
		c.prefix = p
	}
	c.status = http.StatusForbidden
	if s := json.Get("rejected_code").Uint(); s >= 400 && s < 600 {
		c.status = uint32(s)
	}
	c.failOpen = json.Get("on_redis_error").String() != "deny"
	c.ipHeader = strings.ToLower(json.Get("ip_source_header").String())
	c.foldCases = json.Get("ignore_path_case").Bool()
	c.redis = wrapper.NewRedisClusterClient(wrapper.FQDNCluster{FQDN: service, Port: port})
	database := int(redis.Get("database").Int())
	err := c.redis.Init(redis.Get("username").String(), redis.Get("password").String(), timeout, wrapper.WithDataBase(database))
	if err != nil {
		return err
	}
	json.Get("entries").ForEach(func(name, reason gjson.Result) bool {
		err = c.redis.Set(c.prefix+":"+name.String(), reason.String(), nil)
		return err == nil
	})
	return err
}

func onRequestHeaders(ctx wrapper.HttpContext, c config) types.Action {
	ctx.DontReadRequestBody()
	path, _, _ := strings.Cut(ctx.Path(), "?")
	if c.foldCases {
		path = strings.ToLower(path)
	}
	ip := c.clientIP()
	err := c.redis.MGet([]string{c.prefix + ":ip:" + ip, c.prefix + ":path:" + path}, func(answer resp.Value) {
		c.decide(answer, ip, path)
	})
	if err != nil {
		return c.withoutRedis(err)
	}
	return types.ActionPause
}

// decide ends the pause: an entry for either key refuses the request.
func (c config) decide(answer resp.Value, ip, path string) {
	if err := answer.Error(); err != nil {
		if c.withoutRedis(err) == types.ActionContinue {
			_ = proxywasm.ResumeHttpRequest()
		}
		return
	}
	for i, entry := range answer.Array() {
		if entry.IsNull() {
			continue
		}
		what := [2]string{"ip " + ip, "path " + path}[i&1]
		c.refuse("blacklisted", what+": "+entry.String())
		return
	}
	_ = proxywasm.ResumeHttpRequest()
}

func (c config) withoutRedis(err error) types.Action {
	proxywasm.LogWarnf("the blacklist cannot be read: %v", err)
	if c.failOpen {
		return types.ActionContinue
	}
	_ = proxywasm.SendHttpResponseWithDetail(http.StatusServiceUnavailable, "blacklist.unavailable", nil, []byte("the blacklist cannot be read\n"), -1)
	return types.ActionPause
}

func (c config) refuse(detail, reason string) {
	headers := [][2]string{{"content-type", "text/plain"}, {"x-blacklisted", reason}}
	_ = proxywasm.SendHttpResponseWithDetail(c.status, "blacklist."+detail, headers, []byte("refused: "+reason+"\n"), -1)
}

// clientIP is the connection's address, or the first one in the configured header, which only a proxy of yours may set.
func (c config) clientIP() string {
	if c.ipHeader != "" {
		if value, err := proxywasm.GetHttpRequestHeader(c.ipHeader); err == nil {
			first, _, _ := strings.Cut(value, ",")
			return strings.TrimSpace(first)
		}
	}
	address, err := proxywasm.GetProperty([]string{"source", "address"})
	if err != nil {
		return ""
	}
	host, _, err := net.SplitHostPort(string(address))
	if err != nil {
		return string(address)
	}
	return host
}
