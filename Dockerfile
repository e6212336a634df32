# syntax=docker/dockerfile:1
# Weir's images, one target each:
#   docker build --target proxy         -t ghcr.io/weir-mesh/proxy:0.1.0 .
#   docker build --target control-plane -t ghcr.io/weir-mesh/control-plane:0.1.0 .
#   docker build --target injector      -t ghcr.io/weir-mesh/injector:0.1.0 .
# The first builds all programs, the others take them from its cache.

# Debian 12, as the final images: a program asks for a C library no newer than the one it was linked against.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Without debug information the images are a quarter of the size; names of functions stay, for backtraces.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release -p weir-proxy -p weir-control-plane -p weir-injector --bins \
 && mkdir /out \
 && for program in weir-proxy weir-control-plane weir-injector; do \
      strip --strip-debug -o "/out/$program" "target/release/$program" || exit 1; \
    done

# glibc, libgcc and nothing to log in with. Not from scratch with static programs: a static glibc still loads its
# resolver's modules at run time, and they would have to be of exactly its version.
FROM gcr.io/distroless/cc-debian12:nonroot AS base
ARG VERSION=0.1.0
LABEL org.opencontainers.image.vendor="Weir" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION"
WORKDIR /

# The user is the one whose traffic the redirect rules leave alone. `weir-proxy init`, which writes those rules, is this
# image too; the pod's securityContext runs that container as root.
FROM base AS proxy
LABEL org.opencontainers.image.title="weir-proxy" \
      org.opencontainers.image.description="Weir's sidecar"
COPY --from=build /out/weir-proxy /usr/local/bin/weir-proxy
USER 15400:15400
ENTRYPOINT ["/usr/local/bin/weir-proxy"]

FROM base AS control-plane
LABEL org.opencontainers.image.title="weir-control-plane" \
      org.opencontainers.image.description="Weir's control plane"
COPY --from=build /out/weir-control-plane /usr/local/bin/weir-control-plane
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/weir-control-plane"]

FROM base AS injector
LABEL org.opencontainers.image.title="weir-injector" \
      org.opencontainers.image.description="Weir's admission webhook"
COPY --from=build /out/weir-injector /usr/local/bin/weir-injector
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/weir-injector"]
