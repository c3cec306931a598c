package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// applyPath applies the objects of a file, or of the YAML files of a
// directory, and waits until the new kinds among them are served.
func applyPath(c client.Client, path string) (int, error) {
	files := []string{path}
	if info, err := os.Stat(path); err != nil {
		return 0, err
	} else if info.IsDir() {
		files, _ = filepath.Glob(filepath.Join(path, "*.yaml"))
		slices.Sort(files)
	}
	var objects []*unstructured.Unstructured
	for _, file := range files {
		if filepath.Base(file) == "kustomization.yaml" {
			continue
		}
		more, err := readFile(file)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
		objects = append(objects, more...)
	}
	// All at once: an object whose kind or namespace is among them is tried
	// until that is there.
	failed := make(chan error, len(objects))
	for _, o := range objects {
		go func() {
			failed <- waitFor("apply "+name(o), patience, func() error { return apply(context.Background(), c, o) })
		}()
	}
	for range objects {
		if err := <-failed; err != nil {
			return 0, err
		}
	}
	for _, o := range objects {
		if o.GetKind() != "CustomResourceDefinition" {
			continue
		}
		if err := waitFor(name(o), patience, func() error { return established(c, o) }); err != nil {
			return 0, err
		}
	}
	return len(objects), nil
}

func readFile(file string) ([]*unstructured.Unstructured, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readObjects(f)
}

func readObjects(r io.Reader) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	for d := yaml.NewYAMLOrJSONDecoder(r, 64<<10); ; {
		o := &unstructured.Unstructured{}
		if err := d.Decode(o); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, err
		}
		if len(o.Object) > 0 {
			objects = append(objects, o)
		}
	}
}

// apply does what "kubectl apply --server-side --force-conflicts" does.
func apply(ctx context.Context, c client.Client, o *unstructured.Unstructured) error {
	if err := complete(c, o); err != nil {
		return err
	}
	return c.Apply(ctx, client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("kube-rig"), client.ForceOwnership)
}

// remove deletes an object; it is no error if there is none.
func remove(ctx context.Context, c client.Client, o *unstructured.Unstructured) error {
	if err := complete(c, o); err != nil {
		return err
	}
	if err := c.Delete(ctx, o); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}

// complete puts an object that names no namespace into the default one.
func complete(c client.Client, o *unstructured.Unstructured) error {
	namespaced, err := c.IsObjectNamespaced(o)
	if err == nil && namespaced && o.GetNamespace() == "" {
		o.SetNamespace("default")
	}
	return err
}

func name(o *unstructured.Unstructured) string {
	return fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName())
}

func established(c client.Client, crd *unstructured.Unstructured) error {
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(crd.GroupVersionKind())
	if err := c.Get(context.Background(), client.ObjectKeyFromObject(crd), o); err != nil {
		return err
	}
	conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, entry := range conditions {
		if m, ok := entry.(map[string]any); ok && m["type"] == "Established" && m["status"] == "True" {
			return nil
		}
	}
	return errors.New("not Established")
}
