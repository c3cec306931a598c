package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// certify signs the certificate of a node, which its hub shows to the API
// server and to other hubs: NAME.crt and NAME.key.
func (b *bench) certify(node, address string) error {
	pki := filepath.Join(b.server.state, "pki")
	var blocks [2]*pem.Block
	for i, file := range []string{"ca.crt", "ca.key"} {
		text, err := os.ReadFile(filepath.Join(pki, file))
		if err != nil {
			return err
		}
		if blocks[i], _ = pem.Decode(text); blocks[i] == nil {
			return fmt.Errorf("%s is no PEM", file)
		}
	}
	ca, err := x509.ParseCertificate(blocks[0].Bytes)
	if err != nil {
		return err
	}
	caKey, err := x509.ParseECPrivateKey(blocks[1].Bytes)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	keyBytes, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	certificate, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}},
		NotBefore:    ca.NotBefore,
		NotAfter:     ca.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses:  []net.IP{net.ParseIP(address)},
	}, ca, key.Public(), caKey)
	if err != nil {
		return err
	}
	for file, block := range map[string]pem.Block{
		node + ".crt": {Type: "CERTIFICATE", Bytes: certificate}, node + ".key": {Type: "PRIVATE KEY", Bytes: keyBytes},
	} {
		if err := os.WriteFile(filepath.Join(pki, file), pem.EncodeToMemory(&block), 0o600); err != nil {
			return err
		}
	}
	return nil
}
