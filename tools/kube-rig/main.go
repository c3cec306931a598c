// Command kube-rig runs a real Kubernetes API without containers, and the
// Gateway API conformance suite against it. See README.md.
package main

import (
	"fmt"
	"os"
)

var commands = []struct {
	name, help string
	run        func(args []string) error
}{
	{"up", "start a cluster; it ends when standard input closes, or on SIGINT or SIGTERM", cmdUp},
	{"exec", "run a command in the network namespace of the cluster", cmdExec},
	{"conformance", "run the Gateway API conformance suite", cmdConformance},
	{"selftest", "check the rig itself with the base manifests of the suite", cmdSelftest},
	{"up-inside", "internal: the part of up that runs in the new network namespace", cmdUpInside},
	{"kubelet", "internal: the stand-in for kubelet, scheduler, service proxy and DNS", cmdKubelet},
	{"contain", "internal: enter the namespaces of a container and run its command", cmdContain},
}

func main() {
	if len(os.Args) > 1 {
		for _, c := range commands {
			if c.name == os.Args[1] {
				if err := c.run(os.Args[2:]); err != nil {
					fmt.Fprintf(os.Stderr, "kube-rig %s: %v\n", c.name, err)
					os.Exit(1)
				}
				return
			}
		}
	}
	fmt.Fprintln(os.Stderr, "usage: kube-rig <command> [flags]   (each command has -h)")
	for _, c := range commands {
		fmt.Fprintf(os.Stderr, "  %-12s %s\n", c.name, c.help)
	}
	os.Exit(2)
}
