# grpo-rt for NVIDIA's H100 and H200 (and what runs PTX of sm_90). The host needs driver 580 or newer and
# nvidia-container-toolkit; the image holds no CUDA: kernels are in the program, the driver comes from the host.
#   docker build -f docker/cuda.Dockerfile -t grpo-rt:cuda .
#   docker run --rm --gpus all -v "$PWD:/runs" grpo-rt:cuda doctor
FROM rust:1.95-slim-trixie AS build
RUN apt-get update && apt-get install -y --no-install-recommends \
        gcc g++ libc6-dev make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN tools/setup/kernel_compilers.sh --only nvcc
# Only the compiler that was installed: kernels of the other vendor are not in this image.
RUN cargo build --locked --release && strip target/release/grpo-rt

FROM debian:trixie-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates ffmpeg python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/grpo-rt /usr/local/bin/grpo-rt
WORKDIR /runs
# What the container toolkit brings in from the host: the driver's compute libraries and its telemetry.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HF_HOME=/runs/.cache/huggingface
ENTRYPOINT ["grpo-rt"]
CMD ["--help"]
