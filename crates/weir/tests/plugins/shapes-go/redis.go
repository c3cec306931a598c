package main

import (
	"net/http"
	"strconv"

	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm"
	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm/types"
	"github.com/higress-group/wasm-go/pkg/wrapper"
	"github.com/tidwall/gjson"
	"github.com/tidwall/resp"
)

func redisClient(json gjson.Result) (wrapper.RedisClient, error) {
	at, err := service(json.Get("redis"))
	if err != nil {
		return nil, err
	}
	client := wrapper.NewRedisClusterClient(at)
	timeout := json.Get("redis.timeout").Int()
	if timeout == 0 {
		timeout = 1000
	}
	return client, client.Init(json.Get("redis.username").String(), json.Get("redis.password").String(), timeout)
}

// Counts in a window that begins with its first request: {how many so far, seconds left}.
const windowScript = `
local n = redis.call('INCR', KEYS[1])
if n == 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return {n, redis.call('TTL', KEYS[1])}`

// rateLimit counts requests by the value of a header, in Redis, for all gateways together.
func rateLimit(json gjson.Result) (shape, error) {
	client, err := redisClient(json)
	if err != nil {
		return shape{}, err
	}
	header, limit, window := json.Get("limit_by_header").String(), int(json.Get("limit").Int()), int(json.Get("window").Int())
	return shape{
		requestHeaders: func(ctx wrapper.HttpContext) types.Action {
			key, _ := proxywasm.GetHttpRequestHeader(header)
			if key == "" {
				return types.ActionContinue
			}
			err := client.Eval(windowScript, 1, []interface{}{"limit:" + key}, []interface{}{window}, func(reply resp.Value) {
				counted := reply.Array()
				if reply.Error() != nil || len(counted) != 2 {
					proxywasm.LogErrorf("rate limit: Redis replied %v", reply)
					_ = proxywasm.ResumeHttpRequest()
					return
				}
				remaining := limit - counted[0].Integer()
				headers := [][2]string{
					{"x-ratelimit-limit", strconv.Itoa(limit)},
					{"x-ratelimit-remaining", strconv.Itoa(max(remaining, 0))},
				}
				if remaining < 0 {
					headers = append(headers, [2]string{"x-ratelimit-reset", strconv.Itoa(counted[1].Integer())})
					_ = proxywasm.SendHttpResponseWithDetail(http.StatusTooManyRequests, "rate-limit.exceeded", headers, []byte("too many requests\n"), -1)
					return
				}
				ctx.SetContext("headers", headers)
				_ = proxywasm.ResumeHttpRequest()
			})
			if err != nil {
				proxywasm.LogErrorf("rate limit: Redis cannot be asked: %v", err)
				return types.ActionContinue
			}
			return types.HeaderStopAllIterationAndWatermark
		},
		responseHeaders: func(ctx wrapper.HttpContext) types.Action {
			headers, _ := ctx.GetContext("headers").([][2]string)
			for _, h := range headers {
				_ = proxywasm.ReplaceHttpResponseHeader(h[0], h[1])
			}
			return types.ActionContinue
		},
	}, nil
}

// responseCache keeps whole bodies of good responses in Redis, by host and path.
func responseCache(json gjson.Result) (shape, error) {
	client, err := redisClient(json)
	if err != nil {
		return shape{}, err
	}
	ttl := int(json.Get("cache_ttl").Int())
	const key = "key"
	return shape{
		requestHeaders: func(ctx wrapper.HttpContext) types.Action {
			if ctx.Method() != http.MethodGet {
				ctx.DontReadResponseBody()
				return types.ActionContinue
			}
			name := "cache:" + ctx.Host() + ctx.Path()
			err := client.Get(name, func(reply resp.Value) {
				if reply.Error() == nil && !reply.IsNull() {
					headers := [][2]string{{"content-type", "application/json"}, {"x-cache-status", "hit"}}
					_ = proxywasm.SendHttpResponseWithDetail(http.StatusOK, "response-cache.hit", headers, reply.Bytes(), -1)
					return
				}
				ctx.SetContext(key, name)
				_ = proxywasm.ResumeHttpRequest()
			})
			if err != nil {
				return types.ActionContinue
			}
			return types.HeaderStopAllIterationAndWatermark
		},
		responseHeaders: func(ctx wrapper.HttpContext) types.Action {
			status, _ := proxywasm.GetHttpResponseHeader(":status")
			if ctx.GetContext(key) == nil || status != "200" {
				ctx.DontReadResponseBody()
				return types.ActionContinue
			}
			_ = proxywasm.AddHttpResponseHeader("x-cache-status", "miss")
			return types.HeaderStopIteration
		},
		responseBody: func(ctx wrapper.HttpContext, body []byte) types.Action {
			name := ctx.GetStringContext(key, "")
			// The response waits until its body is stored: the next request finds it.
			err := client.SetEx(name, string(body), ttl, func(resp.Value) { _ = proxywasm.ResumeHttpResponse() })
			if err != nil {
				return types.ActionContinue
			}
			return types.DataStopIterationAndBuffer
		},
	}, nil
}
