package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// api is a small client of the Kubernetes API: JSON in, JSON out, and no limit
// of requests per second.
type api struct {
	base   string
	client *http.Client
}

type apiError struct {
	code int
	body string
}

func (e *apiError) Error() string { return fmt.Sprintf("API: %d %s", e.code, e.body) }

func hasCode(err error, code int) bool {
	var e *apiError
	return errors.As(err, &e) && e.code == code
}

func newAPI() (*api, error) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		return nil, err
	}
	client, err := rest.HTTPClientFor(config)
	return &api{base: config.Host, client: client}, err
}

func (k *api) request(ctx context.Context, method, path string, body any, contentType string) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		reader = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, k.base+path, reader)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", contentType)
	request.Header.Set("Accept", "application/json")
	response, err := k.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 600))
		response.Body.Close()
		return nil, &apiError{response.StatusCode, string(text)}
	}
	return response, nil
}

// do sends one request. PATCH is a merge patch, APPLY a server-side apply.
func (k *api) do(method, path string, body, out any) error {
	contentType := "application/json"
	switch method {
	case "PATCH":
		contentType = "application/merge-patch+json"
	case "APPLY":
		method, contentType = "PATCH", "application/apply-patch+yaml"
		path += "?fieldManager=scale&force=true"
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	response, err := k.request(ctx, method, path, body, contentType)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, response.Body)
		return err
	}
	return json.NewDecoder(response.Body).Decode(out)
}

// watch calls f for every event until the context ends.
func (k *api) watch(ctx context.Context, path string, f func(object json.RawMessage)) error {
	response, err := k.request(ctx, "GET", path, nil, "")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	decoder := json.NewDecoder(response.Body)
	for {
		var event struct{ Object json.RawMessage }
		if err := decoder.Decode(&event); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		f(event.Object)
	}
}

func (k *api) gatewayAddress() (string, error) {
	var object struct {
		Status struct {
			Addresses []struct{ Value string }
		}
	}
	if err := k.do("GET", gatewaysPath+"/"+gateway, nil, &object); err != nil {
		return "", err
	}
	if len(object.Status.Addresses) == 0 {
		return "", fmt.Errorf("the Gateway %s has no address", gateway)
	}
	return object.Status.Addresses[0].Value + ":80", nil
}

func logf(format string, a ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().UTC().Format("15:04:05.000"), fmt.Sprintf(format, a...))
}
