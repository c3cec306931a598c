package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// An answer is one response as seen by a client; status 0 is no response.
type answer struct {
	status             int
	host, pod, service string // what the backend says
	revision           string // response header x-revision
	retried            bool   // an idle connection had been closed by the peer
	err                error
}

func (a answer) key() string {
	if a.status == 0 {
		var ne net.Error
		if errors.As(a.err, &ne) && ne.Timeout() {
			return "timeout"
		}
		return "connection"
	}
	return strconv.Itoa(a.status)
}

// okFor reports a 200 from the backend for this very host.
func (a answer) okFor(host string) bool { return a.status == 200 && a.host == host }

// A client is one HTTP/1.1 connection. Not for concurrent use.
type client struct {
	address string
	timeout time.Duration
	conn    net.Conn
	reader  *bufio.Reader
}

func (c *client) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// get sends one request. When a kept connection turns out to be closed before
// any byte of the response came, it tries once more on a new one, as every
// HTTP client does for GET.
func (c *client) get(host string) answer {
	reused := c.conn != nil
	a, started := c.once(host)
	var ne net.Error
	if a.err != nil && reused && !started && !(errors.As(a.err, &ne) && ne.Timeout()) {
		a, _ = c.once(host)
		a.retried = true
	}
	return a
}

func (c *client) once(host string) (a answer, started bool) {
	if c.conn == nil {
		conn, err := net.DialTimeout("tcp", c.address, c.timeout)
		if err != nil {
			return answer{err: err}, false
		}
		c.conn, c.reader = conn, bufio.NewReaderSize(conn, 4096)
	}
	fail := func(err error) (answer, bool) { c.close(); return answer{err: err}, started }
	_ = c.conn.SetDeadline(time.Now().Add(c.timeout))
	if _, err := c.conn.Write([]byte("GET / HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: scale\r\n\r\n")); err != nil {
		return fail(err)
	}
	if _, err := c.reader.Peek(1); err != nil {
		return fail(err)
	}
	started = true
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return fail(err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return fail(err)
	}
	a.status, a.revision = response.StatusCode, response.Header.Get("x-revision")
	if a.status == 200 {
		var v struct{ Host, Pod, Service string }
		_ = json.Unmarshal(body, &v)
		a.host, a.pod, a.service = v.Host, v.Pod, v.Service
	}
	if response.Close {
		c.close()
	}
	return a, true
}

const (
	pollConnections = 8
	pollPeriod      = 3 * time.Millisecond
)

// A poller asks for one host again and again, each time on the next of its
// connections, so that it sees all workers of a gateway.
type poller struct {
	clients []*client
	next    int
	asked   int
}

func newPoller(o *options) *poller {
	p := &poller{}
	for range pollConnections {
		p.clients = append(p.clients, &client{address: o.address, timeout: 2 * time.Second})
	}
	return p
}

func (p *poller) get(host string) answer {
	p.next = (p.next + 1) % len(p.clients)
	p.asked++
	return p.clients[p.next].get(host)
}

// warm opens all connections.
func (p *poller) warm(host string) {
	for range p.clients {
		p.get(host)
	}
}

// A visible says when a change showed in the traffic.
type visible struct {
	First   float64        `json:"first_ms"`   // first good answer
	Settled float64        `json:"settled_ms"` // from here on only good answers
	Flaps   int            `json:"flaps"`      // bad answers after the first good one
	Seen    map[string]int `json:"seen"`       // answers before it settled, by status
	Timeout bool           `json:"timeout,omitempty"`
}

// until polls until good holds without a break for every connection and for
// at least hold.
func (p *poller) until(begin time.Time, host string, limit, hold time.Duration, good func(answer) bool) visible {
	v := visible{Seen: map[string]int{}}
	var run time.Time
	n := 0
	for tick := time.Now(); ; {
		a := p.get(host)
		now := time.Now()
		if good(a) {
			if v.First == 0 {
				v.First = ms(now.Sub(begin))
			}
			if n == 0 {
				run = now
			}
			n++
			if n >= 2*len(p.clients) && now.Sub(run) >= hold {
				v.Settled = ms(run.Sub(begin))
				return v
			}
		} else {
			if v.First != 0 {
				v.Flaps++
			}
			n = 0
			v.Seen[a.key()]++
		}
		if now.Sub(begin) > limit {
			v.Timeout = true
			v.Settled = ms(now.Sub(begin))
			return v
		}
		tick = tick.Add(pollPeriod)
		if d := time.Until(tick); d > 0 {
			time.Sleep(d)
		} else {
			tick = time.Now()
		}
	}
}
