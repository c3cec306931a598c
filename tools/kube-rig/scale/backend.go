package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
)

const backendPort = 8080

// backend answers every request with the host asked for, its pod and its
// service.
func backend(_ *options, fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		return err
	}
	return http.ListenAndServe(fmt.Sprintf(":%d", backendPort), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := json.Marshal(map[string]string{"host": r.Host, "pod": os.Getenv("POD_NAME"), "service": os.Getenv("SERVICE_NAME")})
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	}))
}
