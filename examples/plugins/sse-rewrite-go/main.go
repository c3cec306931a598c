// Rewrites server-sent events as they pass: each event is changed as soon as its last line is there, none waits for the
// end of the stream. Words of the configuration are replaced in the data lines; events of unwanted types are left out.
package main

import (
	"bytes"
	"errors"
	"strings"

	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm"
	"github.com/higress-group/proxy-wasm-go-sdk/proxywasm/types"
	"github.com/higress-group/wasm-go/pkg/wrapper"
	"github.com/tidwall/gjson"
)

func main() {}

func init() {
	wrapper.SetCtx("sse-rewrite",
		wrapper.ParseConfig(parseConfig),
		wrapper.ProcessResponseHeaders(onResponseHeaders),
		wrapper.ProcessStreamingResponseBody(onResponseChunk),
	)
}

// The longest event that is waited for; a longer one passes as it is.
const maxEvent = 64 * 1024

type config struct {
	words *strings.Replacer
	drop  map[string]bool
}

func parseConfig(json gjson.Result, c *config) error {
	var pairs []string
	for _, r := range json.Get("replace").Array() {
		from := r.Get("from").String()
		if from == "" {
			return errors.New("replace: an entry without from")
		}
		pairs = append(pairs, from, r.Get("to").String())
	}
	c.words = strings.NewReplacer(pairs...)
	c.drop = map[string]bool{}
	for _, event := range json.Get("drop_events").Array() {
		c.drop[event.String()] = true
	}
	return nil
}

const active, rest = "active", "rest"

func onResponseHeaders(ctx wrapper.HttpContext, c config) types.Action {
	kind, _ := proxywasm.GetHttpResponseHeader("content-type")
	if !strings.HasPrefix(kind, "text/event-stream") {
		ctx.DontReadResponseBody()
		return types.ActionContinue
	}
	_ = proxywasm.RemoveHttpResponseHeader("content-length")
	ctx.SetContext(active, true)
	return types.ActionContinue
}

func onResponseChunk(ctx wrapper.HttpContext, c config, chunk []byte, last bool) []byte {
	if ctx.GetContext(active) == nil {
		return chunk
	}
	held, _ := ctx.GetContext(rest).([]byte)
	text := append(held, chunk...)
	var out []byte
	for {
		end := bytes.Index(text, []byte("\n\n"))
		if end < 0 {
			break
		}
		out = append(out, c.event(text[:end+2])...)
		text = text[end+2:]
	}
	if last || len(text) > maxEvent {
		out, text = append(out, text...), nil
	}
	ctx.SetContext(rest, bytes.Clone(text))
	return out
}

// event is one event with the blank line that ends it.
func (c config) event(event []byte) []byte {
	lines := strings.SplitAfter(string(event), "\n")
	var out strings.Builder
	for _, line := range lines {
		if name, found := strings.CutPrefix(line, "event:"); found && c.drop[strings.TrimSpace(name)] {
			return nil
		}
		if data, found := strings.CutPrefix(line, "data:"); found {
			line = "data:" + c.words.Replace(data)
		}
		out.WriteString(line)
	}
	return []byte(out.String())
}
