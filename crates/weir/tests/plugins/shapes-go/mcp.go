package main

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"

	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm"
	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm/types"
	"github.com/higress-group/wasm-go/pkg/wrapper"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
)

// mcpServer makes one REST service a tool of the Model Context Protocol. `POST /mcp` is its streamable HTTP endpoint; of an
// upstream that speaks the older HTTP+SSE transport, `GET /sse` passes with the path of its messages under `sse_prefix`.
func mcpServer(json gjson.Result) (shape, error) {
	at, err := service(json)
	if err != nil {
		return shape{}, err
	}
	client, name := wrapper.NewClusterClient(at), json.Get("tool.name").String()
	path, prefix, timeout := json.Get("tool.path").String(), json.Get("sse_prefix").String(), uint32(json.Get("timeout").Uint())

	send := func(status int, message []byte) {
		headers := [][2]string{{"content-type", "application/json"}}
		accept, _ := proxywasm.GetHttpRequestHeader("accept")
		if len(message) > 0 && strings.HasPrefix(accept, "text/event-stream") {
			headers[0][1] = "text/event-stream"
			message = []byte(fmt.Sprintf("event: message\ndata: %s\n\n", message))
		}
		_ = proxywasm.SendHttpResponseWithDetail(uint32(status), "mcp-server", headers, message, -1)
	}
	reply := func(id gjson.Result, field string, value interface{}) {
		out := []byte(`{"jsonrpc":"2.0"}`)
		out, _ = sjson.SetRawBytes(out, "id", []byte(id.Raw))
		out, _ = sjson.SetBytes(out, field, value)
		send(http.StatusOK, out)
	}
	fail := func(id gjson.Result, code int, message string) types.Action {
		reply(id, "error", map[string]interface{}{"code": code, "message": message})
		return types.ActionContinue
	}
	return shape{
		requestHeaders: func(ctx wrapper.HttpContext) types.Action {
			ctx.SetContext("sse", false)
			switch {
			case ctx.Path() == "/mcp" && ctx.Method() == http.MethodPost:
				return types.HeaderStopIteration
			case ctx.Path() == "/mcp":
				ctx.DontReadRequestBody()
				_ = proxywasm.SendHttpResponseWithDetail(http.StatusMethodNotAllowed, "mcp-server", [][2]string{{"allow", "POST"}}, nil, -1)
				return types.ActionPause
			case strings.HasPrefix(ctx.Path(), prefix+"/"):
				ctx.DontReadRequestBody()
				_ = proxywasm.ReplaceHttpRequestHeader(":path", strings.TrimPrefix(ctx.Path(), prefix))
				ctx.SetContext("sse", true)
			default:
				ctx.DontReadRequestBody()
			}
			return types.ActionContinue
		},
		requestBody: func(ctx wrapper.HttpContext, body []byte) types.Action {
			request := gjson.ParseBytes(body)
			id := request.Get("id")
			if !gjson.ValidBytes(body) || request.Get("jsonrpc").String() != "2.0" {
				send(http.StatusBadRequest, []byte(`{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no JSON-RPC 2.0"}}`))
				return types.ActionContinue
			}
			if !id.Exists() {
				// A notification.
				send(http.StatusAccepted, nil)
				return types.ActionContinue
			}
			switch request.Get("method").String() {
			case "initialize":
				reply(id, "result", map[string]interface{}{
					"protocolVersion": "2025-03-26",
					"capabilities":    map[string]interface{}{"tools": map[string]interface{}{}},
					"serverInfo":      map[string]interface{}{"name": "shapes", "version": "1"},
				})
			case "tools/list":
				tool := map[string]interface{}{"name": name, "inputSchema": map[string]interface{}{"type": "object"}}
				reply(id, "result", map[string]interface{}{"tools": []interface{}{tool}})
			case "tools/call":
				if called := request.Get("params.name").String(); called != name {
					return fail(id, -32602, "there is no tool "+called)
				}
				headers := [][2]string{{"content-type", "application/json"}}
				arguments := []byte(request.Get("params.arguments").Raw)
				err := client.Post(path, headers, arguments, func(status int, _ http.Header, answer []byte) {
					content := map[string]interface{}{"type": "text", "text": string(answer)}
					reply(id, "result", map[string]interface{}{"content": []interface{}{content}, "isError": status != http.StatusOK})
				}, timeout)
				if err != nil {
					return fail(id, -32603, err.Error())
				}
				return types.DataStopIterationAndBuffer
			default:
				return fail(id, -32601, "there is no method "+request.Get("method").String())
			}
			return types.ActionContinue
		},
		responseHeaders: func(ctx wrapper.HttpContext) types.Action {
			kind, _ := proxywasm.GetHttpResponseHeader("content-type")
			if !ctx.GetBoolContext("sse", false) || !strings.HasPrefix(kind, "text/event-stream") {
				ctx.DontReadResponseBody()
			}
			return types.ActionContinue
		},
		responseChunk: func(ctx wrapper.HttpContext, chunk []byte, last bool) []byte {
			text := append(ctx.GetByteSliceContext("rest", nil), chunk...)
			var out []byte
			for {
				end := bytes.Index(text, []byte("\n\n"))
				if end < 0 {
					break
				}
				event := string(text[:end+2])
				if strings.Contains(event, "event: endpoint\n") {
					event = strings.Replace(event, "data: /", "data: "+prefix+"/", 1)
				}
				out = append(out, event...)
				text = text[end+2:]
			}
			if last {
				out, text = append(out, text...), nil
			}
			ctx.SetContext("rest", append([]byte(nil), text...))
			return out
		},
	}, nil
}
