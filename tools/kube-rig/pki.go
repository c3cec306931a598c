package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"time"
)

// writePKI makes one certificate authority and the certificates that the rig
// and programs in it need, plus the RSA key that signs service account tokens.
//
//	ca              signs the others, and what edge-bench adds; clients and pods trust it
//	apiserver       serving certificate of kube-apiserver
//	kubelet         serving certificate of the stand-in kubelet
//	kubelet-client  what kube-apiserver shows to the kubelet (logs, exec)
//	node            what a kubelet shows to kube-apiserver: system:node:rig-node
//	edge            serving certificate of a proxy on the node
//	sa              service account signing key
func (r *rig) writePKI() error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ca := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "kube-rig-ca"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().AddDate(1, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return err
	}
	if err := r.writePEM("ca.crt", "CERTIFICATE", der); err != nil {
		return err
	}

	keyBytes, err := x509.MarshalECPrivateKey(caKey)
	if err != nil {
		return err
	}
	if err := r.writePEM("ca.key", "EC PRIVATE KEY", keyBytes); err != nil {
		return err
	}

	leaf := func(serial int64, file, name, org string, usage x509.ExtKeyUsage, hosts ...string) error {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(serial),
			Subject:      pkix.Name{CommonName: name},
			NotBefore:    ca.NotBefore,
			NotAfter:     ca.NotAfter,
			KeyUsage:     x509.KeyUsageDigitalSignature,
			ExtKeyUsage:  []x509.ExtKeyUsage{usage},
		}
		if org != "" {
			c.Subject.Organization = []string{org}
		}
		for _, h := range hosts {
			if ip := net.ParseIP(h); ip != nil {
				c.IPAddresses = append(c.IPAddresses, ip)
			} else {
				c.DNSNames = append(c.DNSNames, h)
			}
		}
		der, err := x509.CreateCertificate(rand.Reader, c, ca, key.Public(), caKey)
		if err != nil {
			return err
		}
		if err := r.writePEM(file+".crt", "CERTIFICATE", der); err != nil {
			return err
		}
		kb, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		return r.writePEM(file+".key", "PRIVATE KEY", kb)
	}
	if err := leaf(2, "apiserver", "apiserver", "", x509.ExtKeyUsageServerAuth, nodeIP, "127.0.0.1", "10.96.0.1",
		"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local"); err != nil {
		return err
	}
	if err := leaf(3, "kubelet", "kubelet", "", x509.ExtKeyUsageServerAuth, nodeIP, nodeName); err != nil {
		return err
	}
	if err := leaf(4, "kubelet-client", "kubelet-client", "system:masters", x509.ExtKeyUsageClientAuth); err != nil {
		return err
	}
	if err := leaf(5, "node", "system:node:"+nodeName, "system:nodes", x509.ExtKeyUsageClientAuth); err != nil {
		return err
	}
	if err := leaf(6, "edge", "edge", "", x509.ExtKeyUsageServerAuth, "127.0.0.1", "localhost"); err != nil {
		return err
	}

	sa, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	if err := r.writePEM("sa.key", "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(sa)); err != nil {
		return err
	}
	pub, err := x509.MarshalPKIXPublicKey(sa.Public())
	if err != nil {
		return err
	}
	return r.writePEM("sa.pub", "PUBLIC KEY", pub)
}

func (r *rig) writePEM(name, typ string, der []byte) error {
	return os.WriteFile(r.path("pki", name), pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}), 0o600)
}
