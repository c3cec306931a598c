package main

import "time"

const nodePool = "pool1"

// loadNodePool creates OpenYurt's kind NodePool, for which YurtHub's filters
// wait, and one object of it.
func (b *bench) loadNodePool() error {
	definition := object{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": object{"name": "nodepools.apps.openyurt.io"},
		"spec": object{
			"group": "apps.openyurt.io", "scope": "Cluster",
			"names": object{"kind": "NodePool", "listKind": "NodePoolList", "plural": "nodepools", "singular": "nodepool"},
			"versions": []any{object{
				"name": "v1beta1", "served": true, "storage": true,
				"schema": object{"openAPIV3Schema": object{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
			}},
		},
	}
	if err := b.api.write("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition); err != nil {
		return err
	}
	pool := object{
		"apiVersion": "apps.openyurt.io/v1beta1", "kind": "NodePool", "metadata": object{"name": nodePool}, "spec": object{"type": "Edge"},
	}
	// The kind is served a moment later.
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := b.api.write("POST", "/apis/apps.openyurt.io/v1beta1/nodepools", pool)
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}
