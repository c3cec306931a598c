package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

const (
	killPods   = 100
	killNode   = "killed"
	podsToKill = "/api/v1/namespaces/killed/pods"
)

// history has every version of every pod: what an object with a resource
// version may say.
type history struct {
	mu    sync.Mutex
	marks map[string]map[string]string
}

type killedPod struct {
	Metadata struct {
		Name, ResourceVersion string
		Annotations           struct{ Mark string }
	}
}

func (h *history) add(text []byte) error {
	var pod killedPod
	if err := json.Unmarshal(text, &pod); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	m := pod.Metadata
	if h.marks[m.Name] == nil {
		h.marks[m.Name] = map[string]string{}
	}
	h.marks[m.Name][m.ResourceVersion] = m.Annotations.Mark
	return nil
}

// check is how many objects of a list are missing, there twice, or never were
// like this.
func (h *history) check(list []byte) (lost, doubled, mixed int, err error) {
	var parsed struct{ Items []killedPod }
	if err := json.Unmarshal(list, &parsed); err != nil {
		return 0, 0, 0, fmt.Errorf("a list that cannot be read: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	seen := map[string]bool{}
	for _, pod := range parsed.Items {
		m := pod.Metadata
		if seen[m.Name] {
			doubled++
		}
		seen[m.Name] = true
		if mark, known := h.marks[m.Name][m.ResourceVersion]; !known || mark != m.Annotations.Mark {
			mixed++
		}
	}
	for name := range h.marks {
		if !seen[name] {
			lost++
		}
	}
	return lost, doubled, mixed, nil
}

// kills kills the hub at random moments while pods change, starts it without
// the API server, and compares its list with what the API server has said.
func kills(b *bench, h *hub, f figures) error {
	history := &history{marks: map[string]map[string]string{}}
	if err := b.loadKilled(history); err != nil {
		return err
	}
	if err := h.fresh(); err != nil {
		return err
	}
	f["kills"], f["kills_wrong"], f["kills_unanswered"] = 0, 0, 0
	for n := range b.kills {
		if n > 0 {
			h.kill()
			b.server.heal()
			if err := h.start(); err != nil {
				return err
			}
			if err := h.ready(); err != nil {
				return err
			}
		}
		if err := b.killed(h, history); err != nil {
			return err
		}
		if err := b.server.cut(refused); err != nil {
			return err
		}
		if err := h.start(); err != nil {
			return err
		}
		f["kills"]++
		list, err := h.list(podsOf(killNode)+"&resourceVersion=0", 20*time.Second)
		if err != nil {
			logf("%s: kill %d: %v", h.name, n+1, err)
			f["kills_unanswered"]++
			continue
		}
		lost, doubled, mixed, err := history.check(list)
		if err != nil {
			return err
		}
		if wrong := lost + doubled + mixed; wrong > 0 {
			logf("%s: kill %d: %d lost, %d doubled, %d mixed", h.name, n+1, lost, doubled, mixed)
			f["kills_wrong"] += float64(wrong)
		}
	}
	logf("%s: %.0f kills: %.0f lost, doubled or mixed objects, %.0f lists not answered", h.name, f["kills"], f["kills_wrong"], f["kills_unanswered"])
	return nil
}

// killed lists and watches through the hub, changes pods, and kills the hub at a
// random moment.
func (b *bench) killed(h *hub, history *history) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	r := &reflector{client: h.endpoint().connection(0), endpoint: h.endpoint(), path: podsOf(killNode), agent: agent, accept: asJSON}
	go r.run(ctx)
	if err := watching([]*reflector{r}, time.Minute); err != nil {
		return err
	}
	// A list that is still being written is not the subject.
	quiet(h.pid())
	die := time.Now().Add(time.Duration(50+rand.IntN(1000)) * time.Millisecond)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for range 4 {
		wg.Go(func() {
			for time.Now().Before(die) {
				text, err := b.api.patch(podsToKill+"/"+podName(rand.IntN(killPods)), marked(markText(b.nextMark())))
				if err == nil {
					err = history.add(text)
				}
				if err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
					return
				}
			}
		})
	}
	// While changes are on their way.
	time.Sleep(time.Until(die.Add(-10 * time.Millisecond)))
	h.kill()
	wg.Wait()
	return failed
}

func (b *bench) loadKilled(history *history) error {
	if err := b.api.write("POST", "/api/v1/namespaces", object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": "killed"}}); err != nil {
		return err
	}
	return each(killPods, func(i int) error {
		pod := podObject(i, killNode)
		meta := pod["metadata"].(object)
		meta["namespace"] = "killed"
		if err := b.api.write("POST", podsToKill, pod); err != nil {
			return err
		}
		text, err := b.api.patch(podsToKill+"/"+podName(i), marked(markText(b.nextMark())))
		if err != nil {
			return err
		}
		return history.add(text)
	})
}

// list asks until a list is answered.
func (h *hub) list(path string, limit time.Duration) ([]byte, error) {
	last := "no connection"
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		client := h.endpoint().connection(limit)
		status, body, err := h.endpoint().get(client, path, asJSON)
		client.CloseIdleConnections()
		if err == nil && status == http.StatusOK {
			return body, nil
		}
		if err == nil {
			last = fmt.Sprintf("%d %.200s", status, body)
		}
	}
	return nil, fmt.Errorf("%s: %s for %s", path, last, limit)
}
