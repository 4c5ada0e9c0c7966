// Limits of control groups, as files say them: both versions, groups in groups, containers, none.
// builds: dev  seconds: 1
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/cgroup.h"
#include "runtime/base/machine.h"

static char root[] = "/tmp/hep-cgroup-XXXXXX";

static void put(const char *path, const char *text)
{
    char whole[512];
    snprintf(whole, sizeof(whole), "%s%s", root, path);
    for (char *slash = whole + strlen(root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        mkdir(whole, 0777);
        *slash = '/';
    }
    FILE *file = fopen(whole, "w");
    fputs(text, file);
    fclose(file);
}

static void begin(void)
{
    strcpy(strrchr(root, '-') + 1, "XXXXXX");
    cr_assert_not_null(mkdtemp(root));
}

static void end(void)
{
    char command[600];
    snprintf(command, sizeof(command), "rm -rf %s", root);
    cr_assert_eq(system(command), 0);
}

TestSuite(machine, .init = begin, .fini = end);

#define V2_MOUNT "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
#define V1_MOUNT "31 23 0:27 / /sys/fs/cgroup/memory rw shared:5 - cgroup cgroup rw,memory\n"

Test(machine, second_version_nested)
{
    put("/proc/self/cgroup", "0::/slurm/job_7/step_0\n");
    put("/proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" V2_MOUNT);
    put("/sys/fs/cgroup/slurm/memory.max", "max\n");
    put("/sys/fs/cgroup/slurm/memory.current", "5000\n");
    put("/sys/fs/cgroup/slurm/job_7/memory.max", "1000000\n");
    put("/sys/fs/cgroup/slurm/job_7/memory.current", "400000\n");
    put("/sys/fs/cgroup/slurm/job_7/memory.stat", "anon 250000\ninactive_file 150000\nactive_file 1\n");
    put("/sys/fs/cgroup/slurm/job_7/step_0/memory.max", "max\n");
    put("/sys/fs/cgroup/slurm/job_7/step_0/memory.current", "300000\n");
    cr_expect_eq(cgroup_memory_bytes(root), 1000000 - (400000 - 150000));
    put("/sys/fs/cgroup/slurm/job_7/step_0/memory.max", "500000\n"); // the innermost is the least
    cr_expect_eq(cgroup_memory_bytes(root), 500000 - 300000);
    put("/sys/fs/cgroup/slurm/memory.max", "4999\n"); // the outermost: used up
    cr_expect_eq(cgroup_memory_bytes(root), 0);
    put("/sys/fs/cgroup/slurm/job_7/pids.max", "100\n");
    put("/sys/fs/cgroup/slurm/job_7/pids.current", "30\n");
    cr_expect_eq(cgroup_threads(root), 70);
}

Test(machine, first_version_nested)
{
    put("/proc/self/cgroup", "9:name=systemd:/\n5:cpu,cpuacct:/x\n4:memory:/user/job\n0::/\n");
    put("/proc/self/mountinfo", V1_MOUNT "32 23 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n");
    put("/sys/fs/cgroup/memory/user/memory.limit_in_bytes", "700\n");
    put("/sys/fs/cgroup/memory/user/memory.usage_in_bytes", "600\n");
    put("/sys/fs/cgroup/memory/user/memory.stat", "cache 500\ntotal_inactive_file 450\n");
    put("/sys/fs/cgroup/memory/user/job/memory.limit_in_bytes", "9223372036854771712\n");
    put("/sys/fs/cgroup/memory/user/job/memory.usage_in_bytes", "100\n");
    put("/sys/fs/cgroup/unified/nothing", "");
    cr_expect_eq(cgroup_memory_bytes(root), 700 - (600 - 450));
    cr_expect_eq(cgroup_threads(root), UINT64_MAX);
}

// The mount begins at the container's group; the group's path may be of the machine, or of the container.
Test(machine, containers)
{
    put("/proc/self/cgroup", "0::/docker/abc/inner\n");
    put("/proc/self/mountinfo", "30 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n");
    put("/sys/fs/cgroup/memory.max", "900\n");
    put("/sys/fs/cgroup/memory.current", "100\n");
    put("/sys/fs/cgroup/inner/memory.max", "300\n");
    put("/sys/fs/cgroup/inner/memory.current", "50\n");
    cr_expect_eq(cgroup_memory_bytes(root), 250);
    put("/proc/self/cgroup", "0::/../elsewhere\n"); // not below the mount: what is there counts
    cr_expect_eq(cgroup_memory_bytes(root), 800);
}

Test(machine, none)
{
    cr_expect_eq(cgroup_memory_bytes(root), UINT64_MAX);
    put("/proc/self/cgroup", "nonsense\n4:memory:/a\n0::/\n");
    cr_expect_eq(cgroup_memory_bytes(root), UINT64_MAX);
    put("/proc/self/mountinfo", "nonsense - \n - a b c\n" V1_MOUNT V2_MOUNT);
    cr_expect_eq(cgroup_memory_bytes(root), UINT64_MAX);
    bool of_group;
    cr_expect_gt(machine_available_bytes(&of_group), 0);
}
