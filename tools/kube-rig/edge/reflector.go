package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// reflector lists and watches as client-go does: a watch that has ended is
// opened again from the last resource version, and after 410 Gone it lists
// again.
type reflector struct {
	client   *http.Client
	endpoint endpoint
	path     string // with a query
	agent    string
	accept   string
	// seen gets each event with the time of its last byte.
	seen func(event []byte, at time.Time)

	open  atomic.Bool // a watch is open
	lists atomic.Int64
	mark  atomic.Int64 // the last one that was seen
}

// watching waits until all reflectors have a watch open.
func watching(all []*reflector, limit time.Duration) error {
	for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		var closed []string
		for _, r := range all {
			if !r.open.Load() {
				closed = append(closed, fmt.Sprintf("%.8s %s%s", r.agent, r.endpoint.base, r.path))
			}
		}
		if len(closed) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("of %d watches, these are not open after %s: %s", len(all), limit, strings.Join(closed, ", "))
		}
	}
}

func (r *reflector) run(ctx context.Context) {
	client := r.client
	defer client.CloseIdleConnections()
	version := ""
	for ctx.Err() == nil {
		var err error
		if version == "" {
			version, err = r.list(ctx, client)
		}
		if err == nil {
			version, err = r.watch(ctx, client, version)
		}
		r.open.Store(false)
		if err != nil {
			// client-go waits 0.8 s at first.
			select {
			case <-ctx.Done():
			case <-time.After(800 * time.Millisecond):
			}
		}
	}
}

func (r *reflector) request(ctx context.Context, client *http.Client, query, accept string) (*http.Response, error) {
	path := r.path + "&" + query
	if strings.HasSuffix(r.path, "?") {
		path = r.path + query
	}
	request, err := r.endpoint.request(ctx, "GET", path, accept, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", r.agent)
	response, err := client.Do(request)
	if err == nil && response.StatusCode != http.StatusOK {
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		return nil, errStatus(response.StatusCode)
	}
	return response, err
}

type errStatus int

func (e errStatus) Error() string { return http.StatusText(int(e)) }

func (r *reflector) list(ctx context.Context, client *http.Client) (string, error) {
	response, err := r.request(ctx, client, "resourceVersion=0", r.accept)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	r.lists.Add(1)
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	r.note(body)
	version, _, err := listMetadata(body)
	return version, err
}

func (r *reflector) note(text []byte) {
	if at := bytes.LastIndex(text, []byte(markPrefix)); at >= 0 && len(text) >= at+len(markPrefix)+9 {
		n, _ := strconv.ParseInt(string(text[at+len(markPrefix):][:9]), 10, 64)
		r.mark.Store(n)
	}
}

// watch returns the last resource version, or none when the next step is a
// list.
func (r *reflector) watch(ctx context.Context, client *http.Client, version string) (string, error) {
	accept := r.accept
	if accept == asProtobuf {
		accept = "application/vnd.kubernetes.protobuf;stream=watch,application/json"
	}
	query := "watch=true&allowWatchBookmarks=true&timeoutSeconds=3600&resourceVersion=" + url.QueryEscape(version)
	response, err := r.request(ctx, client, query, accept)
	if errors.Is(err, errStatus(http.StatusGone)) {
		return "", nil
	}
	if err != nil {
		return version, err
	}
	defer response.Body.Close()
	r.open.Store(true)
	protobuf := strings.Contains(response.Header.Get("Content-Type"), "protobuf")
	reader := bufio.NewReaderSize(response.Body, 64<<10)
	for {
		event, err := readEvent(reader, protobuf)
		if err != nil {
			return version, err
		}
		at := time.Now()
		of, gone := eventVersion(event, protobuf)
		if gone {
			return "", nil
		}
		if of != "" {
			version = of
		}
		r.note(event)
		if r.seen != nil {
			r.seen(event, at)
		}
	}
}

func readEvent(reader *bufio.Reader, protobuf bool) ([]byte, error) {
	if !protobuf {
		return reader.ReadBytes('\n')
	}
	var length [4]byte
	if _, err := io.ReadFull(reader, length[:]); err != nil {
		return nil, err
	}
	event := make([]byte, binary.BigEndian.Uint32(length[:]))
	_, err := io.ReadFull(reader, event)
	return event, err
}

// eventVersion is the resource version of an event's object, and whether the
// event says that the watch cannot go on.
func eventVersion(event []byte, protobuf bool) (string, bool) {
	if protobuf {
		// Unknown.raw, WatchEvent.object, RawExtension.raw, Unknown.raw, ObjectMeta.resourceVersion
		watch := field(bytes.TrimPrefix(event, magic), 2)
		object := field(bytes.TrimPrefix(field(field(watch, 2), 1), magic), 2)
		return string(field(field(object, 1), 6)), string(field(watch, 1)) == "ERROR"
	}
	var parsed struct {
		Type   string
		Object struct {
			Metadata struct{ ResourceVersion string }
		}
	}
	_ = json.Unmarshal(event, &parsed)
	return parsed.Object.Metadata.ResourceVersion, parsed.Type == "ERROR"
}

// listMetadata is the resource version of a list, and its continue token.
func listMetadata(body []byte) (version, next string, err error) {
	if raw, ok := bytes.CutPrefix(body, magic); ok {
		// Unknown.raw; ListMeta.resourceVersion and .continue
		meta := field(field(raw, 2), 1)
		return string(field(meta, 2)), string(field(meta, 3)), nil
	}
	var parsed struct {
		Metadata struct{ ResourceVersion, Continue string }
	}
	err = json.Unmarshal(body, &parsed)
	return parsed.Metadata.ResourceVersion, parsed.Metadata.Continue, err
}

// What comes before protobuf in the Kubernetes API.
var magic = []byte("k8s\x00")

// field is the first bytes with this number in a protobuf message.
func field(message []byte, number int) []byte {
	for len(message) > 0 {
		key, n := binary.Uvarint(message)
		if n <= 0 {
			return nil
		}
		message = message[n:]
		switch key & 7 {
		case 0:
			_, n = binary.Uvarint(message)
			if n <= 0 {
				return nil
			}
			message = message[n:]
		case 2:
			size, n := binary.Uvarint(message)
			if n <= 0 || uint64(len(message)-n) < size {
				return nil
			}
			value := message[n : n+int(size)]
			if int(key>>3) == number {
				return value
			}
			message = message[n+int(size):]
		default:
			return nil
		}
	}
	return nil
}
