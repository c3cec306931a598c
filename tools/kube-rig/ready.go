package main

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Machines that build and test beside it are slow.
const (
	patience = 5 * time.Minute
	answer   = 15 * time.Second
)

func serverReady(clients kubernetes.Interface) error {
	ctx, cancel := context.WithTimeout(context.Background(), answer)
	defer cancel()
	return clients.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
}

// nodeReady also asks for the default service account: without it no pod can
// be created.
func nodeReady(clients kubernetes.Interface) error {
	ctx, cancel := context.WithTimeout(context.Background(), answer)
	defer cancel()
	node, err := clients.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			_, err = clients.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
			return err
		}
	}
	return errors.New("the node is not Ready")
}
