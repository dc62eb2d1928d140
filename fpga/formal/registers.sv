// The registers: the rules of AXI4-Lite, and while reads and writes come at any time beside each
// other, a read shows what the last write before it has set.
module registers_properties (
    input logic        clk,
    input logic        rst,
    input logic        s_axi_awvalid,
    input logic [7:0]  s_axi_awaddr,
    input logic        s_axi_wvalid,
    input logic [31:0] s_axi_wdata,
    input logic [3:0]  s_axi_wstrb,
    input logic        s_axi_bready,
    input logic        s_axi_arvalid,
    input logic [7:0]  s_axi_araddr,
    input logic        s_axi_rready,
    input logic        complete,
    input logic        fault,
    input logic [7:0]  fault_cause,
    input logic [15:0] index,
    input logic        read_error,
    input logic        write_error,
    input logic        read_waiting,
    input logic        write_waiting,
    input logic        quiet
);
  logic s_axi_awready, s_axi_wready, s_axi_bvalid, s_axi_arready, s_axi_rvalid, irq, run, halt;
  logic [1:0] s_axi_bresp, s_axi_rresp;
  logic [31:0] s_axi_rdata;
  logic [39:0] descriptors, image, outputs;
  logic [15:0] count;
  registers dut (
      .clk, .rst, .s_axi_awvalid, .s_axi_awready, .s_axi_awaddr, .s_axi_wvalid, .s_axi_wready,
      .s_axi_wdata, .s_axi_wstrb, .s_axi_bvalid, .s_axi_bready, .s_axi_bresp, .s_axi_arvalid,
      .s_axi_arready, .s_axi_araddr, .s_axi_rvalid, .s_axi_rready, .s_axi_rdata, .s_axi_rresp,
      .irq, .run, .halt, .descriptors, .count, .image, .outputs, .complete, .fault, .fault_cause,
      .index, .read_error, .write_error, .read_waiting, .write_waiting, .quiet, .vector(1'b0),
      .stall_weights(1'b0), .stall_drain(1'b0), .stall_dependency(1'b0), .stall_port(1'b0),
      .stall_fetch(1'b0), .beats_asked(5'd0), .beat_written(1'b0)
  );

  // Any one of the registers that keep all 32 bits of what is written.
  (* anyconst *) logic [7:0] watched;
  logic [31:0] kept, seen;
  logic set, asked;

  logic begun, aw_waited, w_waited, b_waited, ar_waited, r_waited, was_halt, failed;
  logic [7:0] awaddr_before, araddr_before;
  logic [35:0] w_before;
  logic [31:0] rdata_before;
  logic [3:0] owed_writes, owed_reads;
  initial begun = 1'b0;
  always_ff @(posedge clk) begin
    begun <= 1'b1;
    if (!begun) assume (rst);
    assume (watched == layout::REG_DESCRIPTORS_LOW || watched == layout::REG_IMAGE_LOW
            || watched == layout::REG_OUTPUT_LOW || watched == layout::REG_TIMEOUT);
    if (rst) begin
      kept <= watched == layout::REG_TIMEOUT ? 32'd65536 : '0;
      {aw_waited, w_waited, b_waited, ar_waited, r_waited, asked} <= '0;
      {owed_writes, owed_reads} <= '0;
      {was_halt, failed} <= '0;
    end else if (begun) begin
      // The master.
      if (aw_waited) assume (s_axi_awvalid && s_axi_awaddr == awaddr_before);
      if (w_waited) assume (s_axi_wvalid && {s_axi_wdata, s_axi_wstrb} == w_before);
      if (ar_waited) assume (s_axi_arvalid && s_axi_araddr == araddr_before);
      aw_waited <= s_axi_awvalid && !s_axi_awready;
      w_waited <= s_axi_wvalid && !s_axi_wready;
      ar_waited <= s_axi_arvalid && !s_axi_arready;
      awaddr_before <= s_axi_awaddr;
      w_before <= {s_axi_wdata, s_axi_wstrb};
      araddr_before <= s_axi_araddr;

      // Answers: one for each request, kept until they are taken, OKAY.
      if (b_waited) assert (s_axi_bvalid);
      if (r_waited) assert (s_axi_rvalid && s_axi_rdata == rdata_before);
      b_waited <= s_axi_bvalid && !s_axi_bready;
      r_waited <= s_axi_rvalid && !s_axi_rready;
      rdata_before <= s_axi_rdata;
      if (s_axi_awready) assert (s_axi_awvalid && s_axi_wvalid && s_axi_wready);
      if (s_axi_wready) assert (s_axi_awready);
      if (s_axi_bvalid) assert (owed_writes == 4'd1 && s_axi_bresp == '0);
      if (s_axi_rvalid) assert (owed_reads == 4'd1 && s_axi_rresp == '0);
      owed_writes <= owed_writes + 4'(s_axi_awready) - 4'(s_axi_bvalid && s_axi_bready);
      owed_reads <= owed_reads + 4'(s_axi_arvalid && s_axi_arready)
                    - 4'(s_axi_rvalid && s_axi_rready);

      // The register.
      if (s_axi_awready && s_axi_wstrb == '1 && {s_axi_awaddr[7:2], 2'd0} == watched)
        kept <= s_axi_wdata;
      if (s_axi_arvalid && s_axi_arready) begin
        asked <= {s_axi_araddr[7:2], 2'd0} == watched;
        seen <= kept;
      end
      if (s_axi_rvalid && asked) assert (s_axi_rdata == seen);
      if (watched == layout::REG_IMAGE_LOW) assert (image[31:0] == kept);

      // A frame: an error brings the bus to rest at once, and rest alone ends that.
      assert (!(run && halt));
      failed <= run && (fault || read_error || write_error);
      if (failed) assert (halt && !run);
      was_halt <= halt && !quiet;
      if (was_halt) assert (halt);
    end
  end
endmodule
