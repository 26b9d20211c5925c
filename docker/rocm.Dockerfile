# grpo-rt for AMD's MI300X and MI200. The host needs the amdgpu driver; libamdhip64 comes from AMD's packages,
# nothing else of ROCm is needed.
#   docker build -f docker/rocm.Dockerfile -t grpo-rt:rocm .
#   docker run --rm --device=/dev/kfd --device=/dev/dri --group-add video -v "$PWD:/runs" grpo-rt:rocm doctor
# --build-arg ROCM=<tag of rocm/rocm-terminal> chooses the version of ROCm.
ARG ROCM=latest
# AMD's images are older systems: what is built here needs a C library of 2.34, theirs are of 2.35 and later.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN tools/setup/kernel_compilers.sh --only clang
RUN cargo build --locked --release && strip target/release/grpo-rt

FROM rocm/rocm-terminal:${ROCM}
USER root
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates ffmpeg python3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/grpo-rt /usr/local/bin/grpo-rt
WORKDIR /runs
ENV LD_LIBRARY_PATH=/opt/rocm/lib HF_HOME=/runs/.cache/huggingface
ENTRYPOINT ["grpo-rt"]
CMD ["--help"]
