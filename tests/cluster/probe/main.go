// Probe is the client in the cluster's self-test: it says what a pod sees of the network.
//
//	probe get URL      the body and nothing else; fails when the answer is not 200
//	probe lookup NAME  the addresses of a name, one a line
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: probe get URL | probe lookup NAME")
		os.Exit(2)
	}
	// A lost packet is sent again within this time.
	within, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	action := get
	if os.Args[1] == "lookup" {
		action = lookup
	}
	if err := action(within, os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func get(within context.Context, url string) error {
	request, err := http.NewRequestWithContext(within, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	// Who the server is does not matter here.
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, response.Status)
	}
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}

func lookup(within context.Context, name string) error {
	addresses, err := net.DefaultResolver.LookupHost(within, name)
	for _, address := range addresses {
		fmt.Println(address)
	}
	return err
}
