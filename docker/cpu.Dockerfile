# grpo-rt for processors. Build from the repository's root:
#   docker build -f docker/cpu.Dockerfile -t grpo-rt .
#   docker run --rm -v "$PWD:/runs" grpo-rt demo
FROM rust:1.95-slim-trixie AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# No kernels: this image has no device to run them on, and says so.
ENV GRPO_RT_KERNELS=none
RUN cargo build --locked --release && strip target/release/grpo-rt

FROM debian:trixie-slim
# python3 runs rewards of your own, ffmpeg reads videos, the certificates are for judges and images by https.
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates ffmpeg python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/grpo-rt /usr/local/bin/grpo-rt
WORKDIR /runs
ENV HF_HOME=/runs/.cache/huggingface
ENTRYPOINT ["grpo-rt"]
CMD ["--help"]
