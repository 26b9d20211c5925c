//! The numbers that the program passes to drivers, against the vendors' own declarations: cudarc's for
//! NVIDIA, hip-sys's for AMD. Calls no driver and needs no library.

use cudarc::driver::sys;
use grpo_rt::device::Vendor;
use grpo_rt::device::fault::FAULTS;
use grpo_rt::device::gpu::{Attribute, CAPTURE_OF_THREAD, MAX_DYNAMIC_SHARED, NON_BLOCKING};
use hip_sys::hiprt;

#[test]
fn attributes_of_devices_have_the_vendors_numbers() {
    use hiprt::hipDeviceAttribute_t as Hip;
    use sys::CUdevice_attribute_enum as Cuda;
    for (ours, cuda, hip) in [
        (
            Attribute::Units,
            Cuda::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
            Hip::hipDeviceAttributeMultiprocessorCount,
        ),
        (Attribute::Wave, Cuda::CU_DEVICE_ATTRIBUTE_WARP_SIZE, Hip::hipDeviceAttributeWarpSize),
        (
            Attribute::Shared,
            Cuda::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            // AMD has no larger size that a block must ask for.
            Hip::hipDeviceAttributeMaxSharedMemoryPerBlock,
        ),
        (
            Attribute::Major,
            Cuda::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
            Hip::hipDeviceAttributeComputeCapabilityMajor,
        ),
        (
            Attribute::Minor,
            Cuda::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            Hip::hipDeviceAttributeComputeCapabilityMinor,
        ),
    ] {
        assert_eq!(ours.number(Vendor::Cuda), cuda as i32, "{ours:?}");
        assert_eq!(ours.number(Vendor::Hip), hip as i32, "{ours:?}");
    }
}

#[test]
fn modes_and_flags_have_the_numbers_of_both_vendors() {
    let cuda = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL as i32;
    let hip = hiprt::hipStreamCaptureMode::hipStreamCaptureModeThreadLocal as i32;
    assert_eq!([CAPTURE_OF_THREAD; 2], [cuda, hip]);

    let cuda = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
    assert_eq!([NON_BLOCKING; 2], [cuda, hiprt::hipStreamNonBlocking]);

    let cuda = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    let hip = hiprt::hipFuncAttribute::hipFuncAttributeMaxDynamicSharedMemorySize;
    assert_eq!([MAX_DYNAMIC_SHARED; 2], [cuda as i32, hip as i32]);
}

#[test]
fn faults_have_the_codes_of_both_vendors() {
    use hiprt::hipError_t as Hip;
    use sys::cudaError_enum as Cuda;
    // Faults that only NVIDIA's driver has a code for.
    let only_cuda = [
        Cuda::CUDA_ERROR_STUB_LIBRARY as i32,
        Cuda::CUDA_ERROR_DEVICE_UNAVAILABLE as i32,
        Cuda::CUDA_ERROR_UNSUPPORTED_PTX_VERSION as i32,
        Cuda::CUDA_ERROR_SYSTEM_NOT_READY as i32,
        Cuda::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH as i32,
    ];
    let both = [
        (Cuda::CUDA_ERROR_OUT_OF_MEMORY as i32, Hip::hipErrorOutOfMemory as i32),
        (Cuda::CUDA_ERROR_NOT_INITIALIZED as i32, Hip::hipErrorNotInitialized as i32),
        (Cuda::CUDA_ERROR_NO_DEVICE as i32, Hip::hipErrorNoDevice as i32),
        (Cuda::CUDA_ERROR_INVALID_DEVICE as i32, Hip::hipErrorInvalidDevice as i32),
        (Cuda::CUDA_ERROR_INVALID_IMAGE as i32, Hip::hipErrorInvalidImage as i32),
        (Cuda::CUDA_ERROR_NO_BINARY_FOR_GPU as i32, Hip::hipErrorNoBinaryForGpu as i32),
        (Cuda::CUDA_ERROR_ECC_UNCORRECTABLE as i32, Hip::hipErrorECCNotCorrectable as i32),
        (Cuda::CUDA_ERROR_NOT_FOUND as i32, Hip::hipErrorNotFound as i32),
        (Cuda::CUDA_ERROR_ILLEGAL_ADDRESS as i32, Hip::hipErrorIllegalAddress as i32),
        (Cuda::CUDA_ERROR_LAUNCH_FAILED as i32, Hip::hipErrorLaunchFailure as i32),
        (Cuda::CUDA_ERROR_UNKNOWN as i32, Hip::hipErrorUnknown as i32),
    ];
    assert!(both.iter().all(|(cuda, hip)| cuda == hip), "{both:?}");
    let mut known: Vec<i32> = both.iter().map(|(cuda, _)| *cuda).chain(only_cuda).collect();
    known.sort_unstable();
    let ours: Vec<i32> = FAULTS.iter().map(|f| f.code).collect();
    assert_eq!(ours, known, "the table of faults, in order of its codes");
}
