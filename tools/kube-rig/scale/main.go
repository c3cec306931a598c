// Command scale measures a Gateway API implementation with many HTTPRoutes:
// memory, bulk creation, the time from a change in the API to its effect on
// traffic, and restarts. `cargo xtask bench kube` runs it; see README.md.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// The namespace and the Gateway of all routes.
const (
	namespace = "scale"
	gateway   = "scale"
)

type options struct {
	class     string
	address   string
	out       string
	routes    int
	processes processSpecs
}

var commands = []struct {
	name, help string
	run        func(o *options, fs *flag.FlagSet, args []string) error
}{
	{"setup", "create the namespace, backends, the Gateway and fixed routes; wait until they answer", setup},
	{"memory", "wait until the processes are quiet, then read their memory", memory},
	{"create", "create routes and follow them until all answer and have a status", create},
	{"change", "create, edit and delete a route: time until traffic shows it", change},
	{"move", "edit an EndpointSlice: time until only the new endpoint answers", move},
	{"restart", "kill a process: time until the routes answer again", restart},
	{"backend", "the HTTP backend that setup deploys", backend},
}

func main() {
	for _, c := range commands {
		if len(os.Args) > 1 && c.name == os.Args[1] {
			o := &options{}
			fs := flag.NewFlagSet(c.name, flag.ExitOnError)
			o.flags(fs)
			if err := c.run(o, fs, os.Args[2:]); err != nil {
				fmt.Fprintf(os.Stderr, "scale %s: %v\n", c.name, err)
				os.Exit(1)
			}
			return
		}
	}
	fmt.Fprintln(os.Stderr, "usage: scale <command> [flags]   (each command has -h)")
	for _, c := range commands {
		fmt.Fprintf(os.Stderr, "  %-8s %s\n", c.name, c.help)
	}
	os.Exit(2)
}

func (o *options) flags(fs *flag.FlagSet) {
	fs.StringVar(&o.class, "class", "weir", "GatewayClass")
	fs.StringVar(&o.address, "address", "", "host:port of the gateway (default: port 80 of the address in the Gateway's status)")
	fs.StringVar(&o.out, "out", "", "write the result as JSON to this file (default: standard output)")
	fs.IntVar(&o.routes, "n", 0, "number of routes h0, h1, … that exist, or are to be created")
	fs.Var(&o.processes, "process", "NAME=REGEX on the command line, repeatable: a process to account for; several matches are added up")
}

// connect reads the flags and finds the API and the address of the gateway.
func (o *options) connect(fs *flag.FlagSet, args []string) (*api, error) {
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	k, err := newAPI()
	if err != nil || o.address != "" || fs.Name() == "setup" {
		return k, err
	}
	o.address, err = k.gatewayAddress()
	return k, err
}

func (o *options) write(result any) error {
	text, err := json.MarshalIndent(result, "", " ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if o.out == "" {
		_, err = os.Stdout.Write(text)
		return err
	}
	if err := os.MkdirAll(filepath.Dir(o.out), 0o755); err != nil {
		return err
	}
	return os.WriteFile(o.out, text, 0o644)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
