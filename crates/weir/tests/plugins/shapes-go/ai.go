package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm"
	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm/types"
	"github.com/higress-group/wasm-go/pkg/tokenusage"
	"github.com/higress-group/wasm-go/pkg/wrapper"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
)

// A provider of models: `openai` is passed through, `claude` is converted both ways.
type provider struct {
	id, kind, token string
	client          wrapper.HttpClient
}

func (p provider) path() string {
	if p.kind == "claude" {
		return "/v1/messages"
	}
	return "/v1/chat/completions"
}

func (p provider) headers() [][2]string {
	if p.kind == "claude" {
		return [][2]string{{"x-api-key", p.token}, {"anthropic-version", "2023-06-01"}}
	}
	return [][2]string{{"authorization", "Bearer " + p.token}}
}

// request converts a request of OpenAI's API.
func (p provider) request(body []byte) []byte {
	if p.kind != "claude" {
		return body
	}
	out := []byte(`{"max_tokens":4096}`)
	out, _ = sjson.SetBytes(out, "model", gjson.GetBytes(body, "model").String())
	if gjson.GetBytes(body, "stream").Bool() {
		out, _ = sjson.SetBytes(out, "stream", true)
	}
	for _, m := range gjson.GetBytes(body, "messages").Array() {
		if m.Get("role").String() == "system" {
			out, _ = sjson.SetBytes(out, "system", m.Get("content").String())
			continue
		}
		out, _ = sjson.SetRawBytes(out, "messages.-1", []byte(m.Raw))
	}
	return out
}

// response converts a whole answer into one of OpenAI's API.
func (p provider) response(body []byte) []byte {
	if p.kind != "claude" {
		return body
	}
	out := []byte(`{"object":"chat.completion"}`)
	from := gjson.ParseBytes(body)
	input, output := from.Get("usage.input_tokens").Int(), from.Get("usage.output_tokens").Int()
	for _, f := range []struct {
		path  string
		value interface{}
	}{
		{"id", from.Get("id").String()},
		{"model", from.Get("model").String()},
		{"choices.0.index", 0},
		{"choices.0.message.role", "assistant"},
		{"choices.0.message.content", from.Get("content.0.text").String()},
		{"choices.0.finish_reason", "stop"},
		{"usage.prompt_tokens", input},
		{"usage.completion_tokens", output},
		{"usage.total_tokens", input + output},
	} {
		out, _ = sjson.SetBytes(out, f.path, f.value)
	}
	return out
}

// event converts the data of one server-sent event; "" drops it.
func (p provider) event(ctx wrapper.HttpContext, data string) string {
	if p.kind != "claude" {
		return data
	}
	from := gjson.Parse(data)
	out := []byte(`{"object":"chat.completion.chunk"}`)
	switch from.Get("type").String() {
	case "message_start":
		ctx.SetContext("input", from.Get("message.usage.input_tokens").Int())
		ctx.SetContext("model", from.Get("message.model").String())
		out, _ = sjson.SetBytes(out, "choices.0.delta.role", "assistant")
	case "content_block_delta":
		out, _ = sjson.SetBytes(out, "choices.0.delta.content", from.Get("delta.text").String())
	case "message_delta":
		input, _ := ctx.GetContext("input").(int64)
		output := from.Get("usage.output_tokens").Int()
		out, _ = sjson.SetRawBytes(out, "choices", []byte(`[]`))
		out, _ = sjson.SetBytes(out, "usage.prompt_tokens", input)
		out, _ = sjson.SetBytes(out, "usage.completion_tokens", output)
		out, _ = sjson.SetBytes(out, "usage.total_tokens", input+output)
	case "message_stop":
		return "[DONE]"
	default:
		return ""
	}
	out, _ = sjson.SetBytes(out, "model", ctx.GetStringContext("model", ""))
	return string(out)
}

// events converts the whole events of a piece; the rest waits for more.
func (p provider) events(ctx wrapper.HttpContext, piece []byte, last bool) []byte {
	text := append(ctx.GetByteSliceContext("rest", nil), wrapper.UnifySSEChunk(piece)...)
	var out bytes.Buffer
	for {
		end := bytes.Index(text, []byte("\n\n"))
		if end < 0 {
			break
		}
		for _, line := range strings.Split(string(text[:end]), "\n") {
			data, found := strings.CutPrefix(line, "data:")
			if !found {
				continue
			}
			if data = p.event(ctx, strings.TrimSpace(data)); data != "" {
				fmt.Fprintf(&out, "data: %s\n\n", data)
			}
		}
		text = text[end+2:]
	}
	if last {
		text = nil
	}
	ctx.SetContext("rest", append([]byte(nil), text...))
	return out.Bytes()
}

const (
	requestKey  = "request"  // the client's body
	providerKey = "provider" // whose answer comes through the chain
	streamKey   = "stream"
)

// aiProxy sends chats to the first provider, which is the upstream of the route, and to the next ones by callouts.
func aiProxy(json gjson.Result) (shape, error) {
	var providers []provider
	for _, p := range json.Get("providers").Array() {
		made := provider{id: p.Get("id").String(), kind: p.Get("type").String(), token: p.Get("token").String()}
		if made.kind != "openai" && made.kind != "claude" {
			return shape{}, fmt.Errorf("type: there is no %q", made.kind)
		}
		if len(providers) > 0 {
			at, err := service(p)
			if err != nil {
				return shape{}, err
			}
			made.client = wrapper.NewClusterClient(at)
		}
		providers = append(providers, made)
	}
	if len(providers) == 0 {
		return shape{}, errors.New("providers are needed")
	}
	first, timeout := providers[0], uint32(json.Get("timeout").Uint())
	metric := func(name string) func(int64) {
		counter := proxywasm.DefineCounterMetric("shapes.ai." + name)
		return func(n int64) {
			if n > 0 {
				counter.Increment(uint64(n))
			}
		}
	}
	input, output, retries := metric("input_token"), metric("output_token"), metric("retries")

	// asks the providers from the nth on, in place of the answer at hand; false when there is none left.
	var retry func(ctx wrapper.HttpContext, nth int) bool
	retry = func(ctx wrapper.HttpContext, nth int) bool {
		if nth >= len(providers) {
			return false
		}
		p, request := providers[nth], ctx.GetByteSliceContext(requestKey, nil)
		retries(1)
		answer := func(status int, headers http.Header, body []byte) {
			if (status >= 500 || status == http.StatusTooManyRequests) && retry(ctx, nth+1) {
				return
			}
			kind := headers.Get("content-type")
			if status == http.StatusOK {
				if strings.HasPrefix(kind, "text/event-stream") {
					body = p.events(ctx, body, true)
				} else {
					body = p.response(body)
				}
				tokenusage.GetTokenUsage(ctx, body)
			}
			extra := [][2]string{{"content-type", kind}, {"x-provider", p.id}}
			_ = proxywasm.SendHttpResponseWithDetail(uint32(status), "ai-proxy.retried", extra, body, -1)
		}
		headers := append(p.headers(), [2]string{"content-type", "application/json"})
		if err := p.client.Post(p.path(), headers, p.request(request), answer, timeout); err != nil {
			proxywasm.LogErrorf("ai-proxy: %s cannot be asked: %v", p.id, err)
			return retry(ctx, nth+1)
		}
		return true
	}
	return shape{
		requestHeaders: func(ctx wrapper.HttpContext) types.Action {
			ctx.SetRequestBodyBufferLimit(10 << 20)
			ctx.SetResponseBodyBufferLimit(10 << 20)
			_ = proxywasm.RemoveHttpRequestHeader("accept-encoding")
			_ = proxywasm.RemoveHttpRequestHeader("content-length")
			return types.HeaderStopIteration
		},
		requestBody: func(ctx wrapper.HttpContext, body []byte) types.Action {
			if !gjson.ValidBytes(body) {
				_ = proxywasm.SendHttpResponseWithDetail(http.StatusBadRequest, "ai-proxy.bad_request", nil, []byte("no JSON\n"), -1)
				return types.ActionContinue
			}
			ctx.SetContext(requestKey, append([]byte(nil), body...))
			_ = proxywasm.ReplaceHttpRequestHeader(":path", first.path())
			_ = proxywasm.RemoveHttpRequestHeader("authorization")
			for _, h := range first.headers() {
				_ = proxywasm.ReplaceHttpRequestHeader(h[0], h[1])
			}
			_ = proxywasm.ReplaceHttpRequestBody(first.request(body))
			return types.ActionContinue
		},
		responseHeaders: func(ctx wrapper.HttpContext) types.Action {
			if !wrapper.IsResponseFromUpstream() {
				ctx.DontReadResponseBody()
				return types.ActionContinue
			}
			text, _ := proxywasm.GetHttpResponseHeader(":status")
			status, _ := strconv.Atoi(text)
			if (status >= 500 || status == http.StatusTooManyRequests) && retry(ctx, 1) {
				return types.HeaderStopAllIterationAndWatermark
			}
			if status != http.StatusOK {
				ctx.DontReadResponseBody()
				return types.ActionContinue
			}
			_ = proxywasm.RemoveHttpResponseHeader("content-length")
			_ = proxywasm.AddHttpResponseHeader("x-provider", first.id)
			ctx.SetContext(providerKey, first.id)
			kind, _ := proxywasm.GetHttpResponseHeader("content-type")
			ctx.SetContext(streamKey, strings.HasPrefix(kind, "text/event-stream"))
			return types.ActionContinue
		},
		responseChunk: func(ctx wrapper.HttpContext, chunk []byte, last bool) []byte {
			if ctx.GetContext(providerKey) == nil {
				return chunk
			}
			if ctx.GetBoolContext(streamKey, false) {
				chunk = first.events(ctx, chunk, last)
				tokenusage.GetTokenUsage(ctx, chunk)
				return chunk
			}
			whole := append(ctx.GetByteSliceContext("rest", nil), chunk...)
			if !last {
				ctx.SetContext("rest", whole)
				return nil
			}
			whole = first.response(whole)
			tokenusage.GetTokenUsage(ctx, whole)
			return whole
		},
		done: func(ctx wrapper.HttpContext) {
			if n, ok := ctx.GetUserAttribute(tokenusage.CtxKeyInputToken).(int64); ok {
				input(n)
			}
			if n, ok := ctx.GetUserAttribute(tokenusage.CtxKeyOutputToken).(int64); ok {
				output(n)
			}
			_ = ctx.WriteUserAttributeToLogWithKey(wrapper.AILogKey)
		},
	}, nil
}
